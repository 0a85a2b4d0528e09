//! From one pod against its neighbours, through its shim, its probes or the loop.
