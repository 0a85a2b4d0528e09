//! What is written of backups elsewhere, or in another place.

/// As `WORDS` above.
pub(super) const WORDS: [(&str, &str, &str); 18] = [
    ("Config", "backup", OF_VOLUME),
    ("Config", "backups", OF_VOLUME),
    ("Pod", "backup", OF_VOLUME),
    ("Pod", "backups", OF_VOLUME),
    ("Container", "backup", OF_VOLUME),
    ("Mount", "backup", OF_VOLUME),
    (
        "SharedVolume",
        "backup",
        "one of the pods that share it says so: `pods.NAME.volumes.NAME = { shared = \"NAME\", backup = { … } }`",
    ),
    (
        "Volume",
        "backups",
        "write `backup = { to = \"/srv/backups\", every = \"1d\" }`",
    ),
    ("Backup", "path", TO),
    ("Backup", "dir", TO),
    ("Backup", "folder", TO),
    ("Backup", "target", TO),
    ("Backup", "schedule", EVERY),
    ("Backup", "cron", EVERY),
    ("Backup", "interval", EVERY),
    ("Backup", "retention", KEEP),
    ("Backup", "retain", KEEP),
    (
        "Backup",
        "command",
        "write `before.exec`: what has the program write everything down",
    ),
];

const OF_VOLUME: &str = "write it of a volume: `pods.NAME.volumes.NAME.backup = { to = \"/srv/backups\", every = \"1d\" }`";
const TO: &str = "write `to`: a folder of the host, as `to = \"/srv/backups\"`";
const EVERY: &str =
    "write `every`: how old the newest may get before the next is made, as `every = \"1d\"`";
const KEEP: &str = "write `keep`: how many stay, as `keep = 7`";

#[cfg(test)]
mod tests {
    use super::super::here;

    #[test]
    fn what_backups_are_called_elsewhere_is_answered() {
        for (contract, field, says) in [
            ("Pod", "backup", "`pods.NAME.volumes.NAME.backup"),
            ("SharedVolume", "backup", "shared = "),
            ("Backup", "path", "write `to`"),
            ("Backup", "schedule", "write `every`"),
            ("Backup", "retention", "write `keep`"),
            ("Pod", "healthcheck", "readiness"),
        ] {
            let said = here(contract, field).unwrap_or_default();
            assert!(said.contains(says), "{contract}.{field}: {said}");
        }
        assert_eq!(here("Volume", "path"), None);
    }
}
