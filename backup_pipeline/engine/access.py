"""Access: what a dump leaves out, as the catalog has it; and what of that is missing.

Those are the owners of all that has one, every right that differs from what the object has anyway,
and what is set for the database. The large objects of a role, or those that it has a right on,
count as one object, because there may be millions.
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
SETTING = "SET"
"""What is set for the sessions of a role in the database; of everybody where it is PUBLIC."""
_WITHOUT = "no "
_FEW = 3


def read_access(connection: "psycopg.Connection[TupleRow]") -> tuple[Access, ...]:
    """Who owns what in this database, which rights are not the usual ones, and what is set for it.

    Of a parameter that is not PostgreSQL's own there is only the name: its value may be a secret.
    """
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
    settings: Counter[str] = Counter()
    for each in access:
        if each.right == OWNER:
            owned[each.role] += len(each.objects)
        elif each.right == SETTING:
            settings[each.role] += len(each.objects)
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
            (settings, "{number:,} settings for {role} are missing"),
        )
        for role, number in counted.most_common(_FEW)
    ]
    more = sum(max(0, len(each) - _FEW) for each in (owned, rights, freed, settings))
    return "; ".join(said) + (f"; and so for {more} more roles" if more else "") if said else None


# Rights that PUBLIC has of an object by default can be taken away, which a dump leaves out, too.
# The baseline of what initdb or an extension made is what it had then.
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
        FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
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
        -- What has an owner and no rights.
        UNION ALL
        SELECT class, id, 0, owner, NULL, NULL FROM (
            SELECT 'pg_collation'::regclass, oid, collowner FROM pg_collation
            UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner FROM pg_conversion
            UNION ALL SELECT 'pg_event_trigger'::regclass, oid, evtowner FROM pg_event_trigger
            UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner FROM pg_opclass
            UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner FROM pg_operator
            UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner FROM pg_opfamily
            UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner FROM pg_publication
            UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner FROM pg_statistic_ext
            UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner FROM pg_ts_config
            UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner FROM pg_ts_dict
            UNION ALL
            SELECT 'pg_subscription'::regclass, pg_subscription.oid, subowner
            FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid
            WHERE datname = current_database()
        ) AS owned(class, id, owner)
    ),
    own AS (
        SELECT objects.*, initprivs, class = 'pg_database'::regclass OR (
            (id >= 16384 OR (class = 'pg_namespace'::regclass AND id = to_regnamespace('public')))
            -- An extension's come with it, and a range's functions with the range.
            AND NOT EXISTS (
                SELECT FROM pg_depend WHERE classid = class AND objid = id
                  AND (deptype = 'e' OR (deptype = 'i' AND class = 'pg_proc'::regclass)))
            ) AS is_own
        FROM objects LEFT JOIN pg_init_privs ON (objoid, classoid, objsubid) = (id, class, sub)
    ),
    named AS (
        SELECT class, sub, owner, acl, is_own,
               coalesce(initprivs, acldefault(kind, owner)) AS usual,
               CASE class WHEN 'pg_database'::regclass THEN 'the database' ELSE
                   (SELECT type || ' ' || identity FROM pg_identify_object(class, id, sub)) END
                   AS object
        FROM own WHERE is_own OR acl <> initprivs OR (acl IS NOT NULL AND initprivs IS NULL)
    ),
    has AS (
        SELECT object, grantee, privilege_type, is_grantable FROM named, aclexplode(acl)
        WHERE grantee <> owner
    ),
    usually AS (
        SELECT object, grantee, privilege_type, is_grantable FROM named, aclexplode(usual)
        WHERE acl IS NOT NULL AND grantee <> owner
    ),
    rights(grantee, right_, object) AS (
        SELECT owner, 'owner', object
        FROM named WHERE is_own AND sub = 0 AND class <> 'pg_default_acl'::regclass
        UNION ALL
        SELECT grantee,
               privilege_type || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END,
               object
        FROM (SELECT * FROM has EXCEPT SELECT * FROM usually) AS granted
        UNION ALL
        SELECT grantee, 'no ' || privilege_type, object
        FROM (SELECT * FROM usually EXCEPT SELECT * FROM has) AS revoked
        UNION ALL
        SELECT DISTINCT lomowner, 'owner', 'large objects' FROM pg_largeobject_metadata
        UNION ALL
        SELECT DISTINCT grantee,
               privilege_type || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END,
               'large objects'
        FROM pg_largeobject_metadata, aclexplode(lomacl) WHERE grantee <> lomowner
        UNION ALL
        SELECT setrole, 'SET', CASE
                   WHEN split_part(setting, '=', 1) ~ '[.]' THEN split_part(setting, '=', 1)
                   ELSE setting END
        FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase,
             unnest(setconfig) AS setting
        WHERE datname = current_database()
    )
    SELECT role::text, right_, array_agg(object ORDER BY object)
    FROM (SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS role,
                 right_, object FROM rights) AS told
    WHERE NOT (right_ = 'owner' AND role = 'pg_database_owner')
      -- pg_dump does not look there either.
      AND object !~ '^[a-z ]+ information_schema($|[.])'
    GROUP BY role, right_ ORDER BY role, right_
"""
