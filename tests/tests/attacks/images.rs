//! By the bytes of a registry or an archive.
