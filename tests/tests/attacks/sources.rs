//! Through volumes, secrets and devices that come from the host, and settings that are the host's.
