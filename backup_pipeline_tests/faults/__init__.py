"""Each row of the fault catalogue, made to happen on real servers, and the means to do so."""
