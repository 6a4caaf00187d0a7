"""Access: owners and rights, which a dump leaves out, as the catalog has them; and what is missing.

Looked at are what can hold rows or run: relations and their columns, schemas, functions, types,
foreign servers and wrappers, languages, default privileges, and the database itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from backup_pipeline.engine.model import Access

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

OWNER = "owner"
"""The right of whom an object belongs to."""
_WITHOUT = "no "
_FEW = 3


def read_access(connection: "psycopg.Connection[TupleRow]") -> tuple[Access, ...]:
    """Who owns what in this database, and which rights differ from what an object has anyway."""
    rows = connection.execute(_ACCESS).fetchall()
    return tuple(Access(role, right, tuple(objects)) for role, right, objects in rows)


def missing(before: Iterable[Access], now: Iterable[Access]) -> tuple[Access, ...]:
    """What there was before and is not there now."""
    there = set(_each(now))
    gone: dict[tuple[str, str], list[str]] = defaultdict(list)
    for role, right, named in _each(before):
        if (role, right, named) not in there:
            gone[role, right].append(named)
    return tuple(Access(*key, tuple(sorted(objects))) for key, objects in sorted(gone.items()))


def _each(access: Iterable[Access]) -> Iterator[tuple[str, str, str]]:
    return ((each.role, each.right, named) for each in access for named in each.objects)


def told(access: Iterable[Access]) -> str | None:
    """What is missing in a sentence; `None` where nothing is."""
    owned: Counter[str] = Counter()
    rights: Counter[str] = Counter()
    freed: Counter[str] = Counter()
    for each in access:
        if each.right == OWNER:
            owned[each.role] += len(each.objects)
        elif each.right.startswith(_WITHOUT):
            freed[each.role] += len(each.objects)
        else:
            rights[each.role] += len(each.objects)
    said = [
        form.format(role=role, number=number)
        for counted, form in (
            (owned, "{number:,} objects belonged to {role}"),
            (rights, "{number:,} rights of {role} are missing"),
            (freed, "{role} has {number:,} that it had not"),
        )
        for role, number in counted.most_common(_FEW)
    ]
    more = sum(max(0, len(each) - _FEW) for each in (owned, rights, freed))
    return "; ".join(said) + (f"; and so for {more} more roles" if more else "") if said else None


# Rights that PUBLIC has of an object by default can be taken away, which a dump leaves out, too.
# The baseline of what initdb made, the schema public, is what it had then.
_ACCESS = """
    WITH objects(class, id, sub, owner, acl, kind) AS (
        SELECT 'pg_class'::regclass, oid, 0, relowner, relacl,
               (CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char"
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
        UNION ALL
        SELECT 'pg_class'::regclass, attrelid, attnum, relowner, attacl, 'c'
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE attacl IS NOT NULL
        UNION ALL
        SELECT 'pg_namespace'::regclass, oid, 0, nspowner, nspacl, 'n'
        FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'
        UNION ALL SELECT 'pg_proc'::regclass, oid, 0, proowner, proacl, 'f' FROM pg_proc
        UNION ALL
        SELECT 'pg_type'::regclass, oid, 0, typowner, typacl, 'T'
        FROM pg_type AS t
        WHERE typtype <> 'm' AND NOT EXISTS (SELECT FROM pg_type WHERE typarray = t.oid)
          AND (typrelid = 0 OR EXISTS (
              SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c'))
        UNION ALL
        SELECT 'pg_foreign_server'::regclass, oid, 0, srvowner, srvacl, 'S' FROM pg_foreign_server
        UNION ALL
        SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwowner, fdwacl, 'F'
        FROM pg_foreign_data_wrapper
        UNION ALL SELECT 'pg_language'::regclass, oid, 0, lanowner, lanacl, 'l' FROM pg_language
        UNION ALL
        SELECT 'pg_default_acl'::regclass, oid, 0, defaclrole, defaclacl, NULL FROM pg_default_acl
        UNION ALL
        SELECT 'pg_database'::regclass, oid, 0, datdba, datacl, 'd'
        FROM pg_database WHERE datname = current_database()
    ),
    named AS (
        SELECT owner, acl, kind, class, coalesce(initprivs, acldefault(kind, owner)) AS usual,
               CASE class WHEN 'pg_database'::regclass THEN 'the database' ELSE
                   (SELECT type || ' ' || identity FROM pg_identify_object(class, id, sub)) END
                   AS object
        FROM objects LEFT JOIN pg_init_privs
             ON (objoid, classoid, objsubid) = (id, class, sub) AND privtype = 'i'
        WHERE (id >= 16384 OR class IN ('pg_namespace'::regclass, 'pg_database'::regclass))
          -- An extension's come with it, and a range's functions with the range.
          AND NOT EXISTS (
              SELECT FROM pg_depend WHERE classid = class AND objid = id
                AND (deptype = 'e' OR (deptype = 'i' AND class = 'pg_proc'::regclass)))
    ),
    has AS (
        SELECT object, grantee, privilege_type, is_grantable FROM named, aclexplode(acl)
        WHERE grantee <> owner
    ),
    usually AS (
        SELECT object, grantee, privilege_type, is_grantable FROM named, aclexplode(usual)
        WHERE acl IS NOT NULL AND grantee <> owner
    ),
    rights(role, right_, object) AS (
        SELECT pg_get_userbyid(owner), 'owner', object
        FROM named WHERE kind <> 'c' AND pg_get_userbyid(owner) <> 'pg_database_owner'
        UNION ALL
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
               privilege_type || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END,
               object
        FROM (SELECT * FROM has EXCEPT SELECT * FROM usually) AS granted
        UNION ALL
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
               'no ' || privilege_type, object
        FROM (SELECT * FROM usually EXCEPT SELECT * FROM has) AS revoked
    )
    SELECT role::text, right_, array_agg(object ORDER BY object)
    FROM rights GROUP BY role, right_ ORDER BY role, right_
"""
