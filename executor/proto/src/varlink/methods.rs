//! The names of the methods.

/// Every method's name, to tell an unknown one from wrong parameters.
pub const METHODS: [&str; 44] = [
    "Status",
    "Diff",
    "Switch",
    "Delete",
    "Operate",
    "Explain",
    "Rollback",
    "Generations",
    "GetGeneration",
    "GenerationDiff",
    "List",
    "Networks",
    "Volumes",
    "RemoveVolumes",
    "ExportVolume",
    "ImportVolume",
    "RestoreVolume",
    "BackupArchives",
    "Get",
    "Exec",
    "Attach",
    "Forward",
    "Logs",
    "Events",
    "Stats",
    "Why",
    "Resolve",
    "Login",
    "Logout",
    "DeleteGenerations",
    "PinGeneration",
    "Collect",
    "CheckStore",
    "Images",
    "InspectImage",
    "PullImage",
    "LoadImages",
    "RemoveImages",
    "ExportGeneration",
    "ImportGeneration",
    "SaveImages",
    "BackUpVolume",
    "Backups",
    "DiffRollback",
];

/// Methods by the names they had in the version before, for clients of that version. `Generation`
/// was a type as well, and clients that keep both in one table called the type. To be removed with
/// the next version.
pub const RENAMED: [(&str, &str); 1] = [("Generation", "GetGeneration")];
