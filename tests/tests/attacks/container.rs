//! Out of a container, by descriptors, links, working directories, programs and streams.
