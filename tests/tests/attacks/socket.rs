//! By whoever talks to the daemon, and by what reaches an operator's terminal.
