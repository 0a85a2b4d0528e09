//! By packets of a neighbour, rules that somebody edits, and a second daemon.
