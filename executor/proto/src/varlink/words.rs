//! The closed sets of words that messages of the interface choose from. Each is an enum of the
//! interface file.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An enum of words: what it is in JSON is what it is printed as.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(zlink::introspect::CustomType))]
        pub enum $name {
            $(
                $(#[$meaning])*
                #[serde(rename = $word)]
                #[cfg_attr(test, zlink(rename = $word))]
                $variant,
            )*
        }

        impl $name {
            /// Every word, in the order of the interface file.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word, as it is in JSON.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// How far a change is.
    Stage {
        /// An image is fetched; the message is its reference.
        Pull = "pull",
        /// The generation is committed; the message names it.
        Commit = "commit",
        /// A step begins; the message is its text.
        Step = "step",
        /// What is waited for.
        Wait = "wait",
        /// The change does not work and is undone; the message says why.
        Rollback = "rollback",
        /// Something to know, which changes nothing.
        Note = "note",
    }
}

words! {
    /// How the switch to a generation ended.
    GenerationOutcome {
        /// It is under way.
        Pending = "pending",
        /// Everything that it declares was reached and was healthy.
        Good = "good",
        /// It was not reached, and the host stayed with it.
        Failed = "failed",
        /// It was not reached, and the host went back to its parent.
        RolledBack = "rolled_back",
    }
}

words! {
    /// What a step costs whoever uses the pod.
    StepClass {
        /// Nothing ran before.
        Create = "create",
        /// Nothing is disturbed.
        InPlace = "in_place",
        /// The main process ends and starts again from the same image.
        Restart = "restart",
        /// The container, or the whole pod, is another one afterwards.
        Replace = "replace",
        /// What ran is gone afterwards.
        Delete = "delete",
        /// Data kept by Tank may be lost.
        DataRisk = "data_risk",
    }
}

words! {
    /// What a change does to a part of the declaration.
    ChangeKind {
        /// It was not declared before.
        Added = "added",
        /// It is not declared any more.
        Removed = "removed",
        /// One of its fields differs.
        Modified = "modified",
    }
}

words! {
    /// When the registry of an image is asked that is run by hand.
    PullPolicy {
        /// Each time.
        Always = "always",
        /// When the image is not on this host.
        Missing = "missing",
        /// Never.
        Never = "never",
    }
}

words! {
    /// What is done by hand.
    Operation {
        /// Containers end, and stay so.
        Stop = "stop",
        /// What does not run starts.
        Start = "start",
        /// What runs ends, and all of it starts.
        Restart = "restart",
    }
}

words! {
    /// What a pod or a container does, desired beside observed: one word for one thing wherever it is shown.
    State {
        /// It is declared and was never started.
        Absent = "absent",
        /// A pod is on its way to run: its containers are not all ready, or what runs before them has not ended.
        Starting = "starting",
        /// It runs; of a pod all containers do, and are ready.
        Running = "running",
        /// Of a pod some containers run, and others do not.
        Degraded = "degraded",
        /// It has ended with status 0, of a pod all containers have.
        Completed = "completed",
        /// It has ended with another status, of a pod one container has and none runs.
        Failed = "failed",
        /// Somebody stopped it by hand, and it stays so.
        Stopped = "stopped",
        /// A container is there as an earlier generation declared it.
        Outdated = "outdated",
        /// A pod is there and no configuration declares it.
        Undeclared = "undeclared",
        /// Its shim does not answer; the pod's `reason` says since when.
        Unresponsive = "unresponsive",
    }
}
