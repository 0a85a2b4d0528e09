//! The Rust types and the interface file say the same, field by field.

use super::*;
use crate::timing::Span;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use zlink::{
    idl::{CustomType, Field, Interface, Type},
    introspect::{self, CustomType as _, ReplyError as _},
};

fn interface() -> Interface<'static> {
    Interface::try_from(DESCRIPTION).expect("the file parses")
}

/// Names and types, as the interface file writes them.
fn fields<'a>(fields: impl Iterator<Item = &'a Field<'a>>) -> Vec<String> {
    fields
        .map(|field| format!("{}: {}", field.name(), field.ty()))
        .collect()
}

/// The fields of a type that replies with an object.
fn outputs<T: introspect::Type>() -> Vec<String> {
    match T::TYPE {
        Type::Object(list) => fields(list.iter()),
        other => panic!("{other} is no object"),
    }
}

/// A named type, as the interface file writes it.
fn shape(of: &CustomType<'_>) -> Vec<String> {
    match of {
        CustomType::Object(object) => fields(object.fields()),
        CustomType::Enum(of) => of.variants().map(|word| word.name().to_string()).collect(),
    }
}

#[test]
fn every_method_takes_what_the_file_says() {
    let interface = interface();
    assert_eq!(interface.name().as_str(), INTERFACE);
    let described: BTreeMap<&str, Vec<String>> = interface
        .methods()
        .map(|method| (method.name().as_str(), fields(method.inputs())))
        .collect();
    for (name, inputs) in [
        ("Diff", outputs::<DiffCall>()),
        ("Switch", outputs::<SwitchCall>()),
        ("Operate", outputs::<OperateCall>()),
        ("Exec", outputs::<ExecCall>()),
        ("Run", outputs::<RunCall>()),
        ("CopyOut", outputs::<CopyOutCall>()),
        ("CopyIn", outputs::<CopyInCall>()),
        ("Logs", outputs::<LogsCall>()),
        ("Events", outputs::<EventsCall>()),
    ] {
        assert_eq!(inputs, described[name], "{name}");
    }
    let names: Vec<&str> = interface.methods().map(|m| m.name().as_str()).collect();
    assert_eq!(names, METHODS);
    for method in interface.methods() {
        let name = format!("{INTERFACE}.{}", method.name());
        assert_read::<Method>(&interface, ("method", &name), method.inputs());
    }
}

/// Some value of a type.
fn sample(interface: &Interface<'_>, of: &Type<'_>) -> Value {
    match of {
        Type::Bool => json!(true),
        Type::Int => json!(7),
        Type::String => json!("text"),
        Type::Optional(of) => sample(interface, of.inner()),
        Type::Array(of) => json!([sample(interface, of.inner())]),
        Type::Map(of) => json!({ "key": sample(interface, of.inner()) }),
        Type::Custom(name) => {
            let mut types = interface.custom_types();
            match types.find(|of| of.name() == name).expect("a type") {
                CustomType::Object(object) => samples(interface, object.fields()),
                CustomType::Enum(of) => json!(of.variants().next().expect("a word").name()),
            }
        }
        other => panic!("{other} has no sample"),
    }
}

fn samples<'a>(interface: &Interface<'_>, fields: impl Iterator<Item = &'a Field<'a>>) -> Value {
    let sample = |field: &Field<'_>| (field.name().to_string(), sample(interface, field.ty()));
    Value::Object(fields.map(sample).collect())
}

/// `T` is read from `parameters` with these fields, and written as what was read; without those,
/// and only those, that may be null; and from no value of another kind.
fn assert_read<'a, T: Serialize + DeserializeOwned>(
    interface: &Interface<'_>,
    (tag, name): (&str, &str),
    fields: impl Iterator<Item = &'a Field<'a>>,
) {
    let fields: Vec<&Field<'_>> = fields.collect();
    let all = samples(interface, fields.iter().copied());
    let read = |parameters: &Value| {
        serde_json::from_value::<T>(json!({ tag: name, "parameters": parameters }))
    };
    let whole = read(&all).unwrap_or_else(|e| panic!("{name}: {e}"));
    let again = serde_json::to_value(whole).expect("encodes");
    assert_eq!(again, json!({ tag: name, "parameters": all }));
    for field in fields {
        let key = field.name().to_string();
        let with = |value: Option<Value>| {
            let mut parameters = all.as_object().expect("an object").clone();
            match value {
                Some(value) => parameters.insert(key.clone(), value),
                None => parameters.remove(&key),
            };
            read(&Value::Object(parameters)).is_ok()
        };
        let may_be_null = matches!(field.ty(), Type::Optional(_));
        assert_eq!(with(None), may_be_null, "{name} without {key}");
        assert_eq!(with(Some(Value::Null)), may_be_null, "{name}: null {key}");
        assert!(
            !with(Some(json!({ "key": [1] }))),
            "{name}: {key} of another kind"
        );
    }
}

#[test]
fn every_method_answers_what_the_file_says() {
    let answers = BTreeMap::from([
        ("Status", outputs::<StatusReply>()),
        ("Diff", outputs::<DiffReply>()),
        ("Switch", outputs::<SwitchReply>()),
        ("Delete", outputs::<SwitchReply>()),
        ("Operate", outputs::<OperateReply>()),
        ("Explain", outputs::<ExplainReply>()),
        ("Rollback", outputs::<SwitchReply>()),
        ("Generations", outputs::<GenerationsReply>()),
        ("GetGeneration", outputs::<GenerationReply>()),
        ("GenerationDiff", outputs::<ChangesReply>()),
        ("List", outputs::<ListReply>()),
        ("Networks", outputs::<NetworksReply>()),
        ("Volumes", outputs::<VolumesReply>()),
        ("RemoveVolumes", outputs::<VolumesReply>()),
        ("ExportVolume", outputs::<TransferReply>()),
        ("ImportVolume", outputs::<ImportVolumeReply>()),
        ("RestoreVolume", outputs::<RestoreVolumeReply>()),
        ("BackupArchives", outputs::<BackupArchivesReply>()),
        ("ExportGeneration", outputs::<ExportGenerationReply>()),
        ("ImportGeneration", outputs::<ImportGenerationReply>()),
        ("SaveImages", outputs::<TransferReply>()),
        ("DiffRollback", outputs::<DiffRollbackReply>()),
        ("Get", outputs::<GetReply>()),
        ("Exec", outputs::<ExecReply>()),
        ("Attach", outputs::<AttachReply>()),
        ("Run", outputs::<RunReply>()),
        ("Forward", outputs::<ForwardReply>()),
        ("CopyOut", outputs::<CopyReply>()),
        ("CopyIn", outputs::<CopyReply>()),
        ("DiskUsage", outputs::<DiskUsageReply>()),
        ("Logs", outputs::<LogsReply>()),
        ("Events", outputs::<EventsReply>()),
        ("Stats", outputs::<StatsReply>()),
        ("UsageHistory", outputs::<UsageHistoryReply>()),
        ("Why", outputs::<WhyReply>()),
        ("Resolve", outputs::<ResolveReply>()),
        ("Login", outputs::<LoginReply>()),
        ("Logout", outputs::<LogoutReply>()),
        ("DeleteGenerations", outputs::<DeleteGenerationsReply>()),
        ("PinGeneration", outputs::<PinGenerationReply>()),
        ("Collect", outputs::<CollectReply>()),
        ("CheckStore", outputs::<CheckStoreReply>()),
        ("Images", outputs::<ImagesReply>()),
        ("InspectImage", outputs::<InspectImageReply>()),
        ("PullImage", outputs::<PullImageReply>()),
        ("LoadImages", outputs::<LoadImagesReply>()),
        ("RemoveImages", outputs::<RemoveImagesReply>()),
        ("BackUpVolume", outputs::<BackUpVolumeReply>()),
        ("Backups", outputs::<BackupsReply>()),
    ]);
    let interface = interface();
    let described: BTreeMap<&str, Vec<String>> = interface
        .methods()
        .map(|method| (method.name().as_str(), fields(method.outputs())))
        .collect();
    assert_eq!(answers, described);
}

#[test]
fn every_type_is_what_the_file_says() {
    let types = [
        Stage::CUSTOM_TYPE,
        Layer::CUSTOM_TYPE,
        Progress::CUSTOM_TYPE,
        GenerationOutcome::CUSTOM_TYPE,
        Generation::CUSTOM_TYPE,
        Volume::CUSTOM_TYPE,
        Backup::CUSTOM_TYPE,
        FormerBackup::CUSTOM_TYPE,
        Archive::CUSTOM_TYPE,
        Bundle::CUSTOM_TYPE,
        Span::CUSTOM_TYPE,
        Outcome::CUSTOM_TYPE,
        StepClass::CUSTOM_TYPE,
        Step::CUSTOM_TYPE,
        ChangeKind::CUSTOM_TYPE,
        Change::CUSTOM_TYPE,
        State::CUSTOM_TYPE,
        PodStatus::CUSTOM_TYPE,
        ContainerStatus::CUSTOM_TYPE,
        Operation::CUSTOM_TYPE,
        PullPolicy::CUSTOM_TYPE,
        Operated::CUSTOM_TYPE,
        Reason::CUSTOM_TYPE,
        PodInterface::CUSTOM_TYPE,
        Pod::CUSTOM_TYPE,
        NetworkPod::CUSTOM_TYPE,
        Network::CUSTOM_TYPE,
        Problem::CUSTOM_TYPE,
        Event::CUSTOM_TYPE,
        Usage::CUSTOM_TYPE,
        Traffic::CUSTOM_TYPE,
        ContainerUsage::CUSTOM_TYPE,
        PodUsage::CUSTOM_TYPE,
        UsagePoint::CUSTOM_TYPE,
        ContainerHistory::CUSTOM_TYPE,
        PodHistory::CUSTOM_TYPE,
        Overridden::CUSTOM_TYPE,
        StackSource::CUSTOM_TYPE,
        Resolved::CUSTOM_TYPE,
        Leftover::CUSTOM_TYPE,
        DiskPart::CUSTOM_TYPE,
        SweptSnapshot::CUSTOM_TYPE,
        Collected::CUSTOM_TYPE,
        Damage::CUSTOM_TYPE,
        StoreReport::CUSTOM_TYPE,
        Image::CUSTOM_TYPE,
        ImageLayer::CUSTOM_TYPE,
        KeptImage::CUSTOM_TYPE,
        BroughtBack::CUSTOM_TYPE,
        LogName::CUSTOM_TYPE,
        LogLine::CUSTOM_TYPE,
    ];
    let shapes: BTreeMap<&str, Vec<String>> = types
        .iter()
        .map(|of| (of.name().as_str(), shape(of)))
        .collect();
    let interface = interface();
    let described: BTreeMap<&str, Vec<String>> = interface
        .custom_types()
        .map(|of| (of.name().as_str(), shape(of)))
        .collect();
    assert_eq!(shapes, described);
}

#[test]
fn every_error_has_what_the_file_says() {
    let interface = interface();
    let described: BTreeMap<&str, Vec<String>> = interface
        .errors()
        .map(|error| (error.name().as_str(), fields(error.fields())))
        .collect();
    let known: BTreeMap<&str, Vec<String>> = Error::VARIANTS
        .iter()
        .map(|error| (error.name().as_str(), fields(error.fields())))
        .collect();
    assert_eq!(known, described);
    for error in interface.errors() {
        let name = format!("{INTERFACE}.{}", error.name());
        assert_read::<Error>(&interface, ("error", &name), error.fields());
    }
}

/// The words that the macros read are those that serde writes.
#[test]
fn the_words_of_an_enum_are_what_is_sent() {
    let sent = json!([
        Stage::ALL,
        GenerationOutcome::ALL,
        StepClass::ALL,
        ChangeKind::ALL,
        Operation::ALL,
        State::ALL
    ]);
    let described = [
        Stage::CUSTOM_TYPE,
        GenerationOutcome::CUSTOM_TYPE,
        StepClass::CUSTOM_TYPE,
        ChangeKind::CUSTOM_TYPE,
        Operation::CUSTOM_TYPE,
        State::CUSTOM_TYPE,
    ]
    .map(shape);
    assert_eq!(sent, json!(described));
}

/// What is absent and what is null is the same to a reader, and every field that may be is.
#[test]
fn what_may_be_null_may_be_absent() {
    let pod = json!({ "name": "a", "state": "running", "addresses": [], "published": [],
        "containers": [{ "name": "b", "image": "c", "state": "failed", "restarts": 0,
            "ready": false }] });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    assert_eq!(pod.state, State::Running);
    assert_eq!(pod.containers[0].state.to_string(), "failed");
    let call: SwitchCall =
        serde_json::from_value(json!({ "config": "{}", "source": "a" })).expect("a call");
    assert_eq!(call.rollback, None);
}

#[test]
fn no_name_stands_for_two_things() {
    let interface = interface();
    let mut names: Vec<&str> = interface
        .methods()
        .map(|method| method.name().as_str())
        .chain(interface.custom_types().map(|of| of.name().as_str()))
        .chain(interface.errors().map(|error| error.name().as_str()))
        .collect();
    names.sort_unstable();
    let twice: Vec<&str> = names
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    assert_eq!(twice, Vec::<&str>::new());
    assert!(
        RENAMED
            .iter()
            .all(|(old, new)| !METHODS.contains(old) && METHODS.contains(new))
    );
}
