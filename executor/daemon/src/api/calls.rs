//! Each method of the interface: from its parameters to calls of the floors below, and from
//! their results to its reply.

use super::{
    by_hand,
    client::Client,
    copies,
    exec::{self, declared_target},
    refusal::{Refusal, internal, of_shim},
    registries, states,
    streams::while_connected,
    views,
};
use crate::{
    generations::{
        Deleted, Generations, MAX_PROGRESS, ProgressSender, Request, Switch,
        origin::{self, Origin, Origins},
    },
    pods::Pods,
    reconcile::Reconciler,
};
use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_model::{Config, Name, canonical, diff};
use tank_proto::{
    copy::Copy,
    shim::Request as ShimRequest,
    varlink::{self, DiffCall, Error, Method, StackSource, SwitchCall},
};
use tokio::sync::mpsc;

impl Client {
    /// Answers a call.
    // long: one arm a method
    pub async fn dispatch(
        &mut self,
        method: Method,
        more: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let floors = Arc::clone(&self.floors);
        let generations = Arc::clone(&floors.generations);
        let uid = self.uid;
        match method {
            Method::Status {} => {
                let status = status(&generations, (&floors.reconciler, &floors.pods)).await?;
                self.reply(&status, false, Vec::new()).await
            }
            Method::Diff(call) => {
                let _place = match call.dump {
                    Some(true) => Some(self.long_reply().await?),
                    _ => None,
                };
                self.diff(&generations, call, more).await
            }
            Method::Switch(call) => {
                let layers = call.layers == Some(true);
                let switch = to_switch(call, uid);
                let work = async move |progress: ProgressSender| {
                    generations.switch(&switch, &progress).await
                };
                self.change(work, (more, layers)).await
            }
            Method::Delete {
                pod,
                stack,
                network,
                volume,
                others,
            } => {
                let named = (pod, stack, network, volume);
                let what = to_deleted(named, others.unwrap_or_default())?;
                let work = async move |progress: ProgressSender| {
                    generations.delete(&what, uid, &progress).await
                };
                self.change(work, (more, false)).await
            }
            Method::Operate(call) => self.operate(generations, call, more).await,
            Method::Explain { pod } => self.explain(&generations, &pod).await,
            Method::Rollback {
                to,
                stack,
                with_data,
            } => {
                let work = async move |progress: ProgressSender| {
                    let back = (to, stack.as_deref(), with_data == Some(true));
                    generations.rollback(back, uid, &progress).await
                };
                self.change(work, (more, false)).await
            }
            Method::DiffRollback {
                to,
                stack,
                with_data,
            } => {
                let back = (to, stack.as_deref(), with_data == Some(true));
                self.diff_rollback(&generations, back, uid).await
            }
            Method::Generations {} => {
                let generations = generations.list()?.iter().map(views::generation).collect();
                self.reply(
                    &varlink::GenerationsReply { generations },
                    false,
                    Vec::new(),
                )
                .await
            }
            Method::GetGeneration { number } => {
                let _place = self.long_reply().await?;
                let read = move || generation_reply(&generations, number);
                let reply = tokio::task::spawn_blocking(read).await;
                let reply = reply.map_err(|e| internal("read a generation", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::GenerationDiff { from, to } => {
                let _place = self.long_reply().await?;
                let compare = move || generation_diff(&generations, from, to);
                let reply = tokio::task::spawn_blocking(compare).await;
                let reply = reply.map_err(|e| internal("compare", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::List {} => {
                let (_, graph) = generations.current()?;
                let observed = floors.reconciler.observe(&graph).await?;
                let mut pods = views::pods(&graph, &observed);
                by_hand::mark(&mut pods, &generations.overrides()?);
                by_hand::mark_runs(&mut pods, &floors.pods.runs().planned());
                self.reply(&varlink::ListReply { pods }, false, Vec::new())
                    .await
            }
            Method::Networks {} => {
                let (_, graph) = generations.current()?;
                let inputs = floors.reconciler.read_inputs(&graph).await?;
                let networks = views::networks(&inputs.target(&graph, None));
                self.reply(&varlink::NetworksReply { networks }, false, Vec::new())
                    .await
            }
            Method::Volumes {} => self.volumes(&generations).await,
            Method::RemoveVolumes(call) => self.remove_volumes(&generations, call).await,
            Method::ExportVolume { volume } => {
                self.export_volume(&generations, &volume, more).await
            }
            Method::ImportVolume { volume, replace } => {
                let what = (volume.as_str(), replace == Some(true));
                self.import_volume(&generations, what, more).await
            }
            Method::RestoreVolume(call) => self.restore_volume(&generations, call).await,
            Method::BackupArchives { volume } => self.backup_archives(&generations, &volume).await,
            Method::BackUpVolume { volume } => self.back_up_volume(&generations, &volume).await,
            Method::Backups { former } => self.backups(&generations, former == Some(true)).await,
            Method::ExportGeneration { number } => {
                self.export_generation(&generations, number, more).await
            }
            Method::ImportGeneration(call) => {
                self.import_generation(&generations, call, more).await
            }
            Method::SaveImages { images } => self.save_images(&generations, images, more).await,
            Method::Get { pod } => {
                let _place = self.long_reply().await?;
                let reply = get_reply(&generations, &floors.reconciler, &pod).await?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Exec(call) => {
                let (pid, fds) = exec::exec(&floors, call, fds).await?;
                self.reply(&varlink::ExecReply { pid }, false, fds).await
            }
            Method::Attach { pod, container } => {
                let (pod, container) = declared_target(&generations, &pod, container.as_deref())?;
                let shim = exec::shim(&floors.pods, &pod, &container)?;
                let request = ShimRequest::Attach {
                    container: container.to_string(),
                };
                let answer = shim.request(&request, &[]).await;
                let refused = |e| of_shim(&e, pod.as_str(), container.as_str());
                let (_, fds) = answer.map_err(refused)?;
                let reply = varlink::AttachReply {
                    container: container.to_string(),
                };
                self.reply(&reply, false, fds).await
            }
            Method::Run(call) => self.run_by_hand(call, fds, more).await,
            Method::Forward { pod, port } => self.forward(&pod, port).await,
            Method::CopyOut(call) => {
                let copy = Copy::Out {
                    path: call.path,
                    name: call.name,
                    follow: call.follow == Some(true),
                };
                let of = (call.pod.as_str(), call.container.as_deref());
                let (reply, fds) = copies::begin(&floors, of, copy).await?;
                self.reply(&reply, false, fds).await
            }
            Method::CopyIn(call) => {
                let copy = Copy::In {
                    path: call.path,
                    archive: call.archive == Some(true),
                    ids: call.ids == Some(true),
                };
                let of = (call.pod.as_str(), call.container.as_deref());
                let (reply, fds) = copies::begin(&floors, of, copy).await?;
                self.reply(&reply, false, fds).await
            }
            Method::DiskUsage { advice } => {
                self.disk_usage(&generations, advice == Some(true)).await
            }
            Method::Logs(call) => self.logs(&generations, call, more).await,
            Method::Why { field } => {
                let reply = tokio::task::spawn_blocking(move || generations.why(&field)).await;
                let reason = reply.map_err(|e| internal("look for the reason", e))??;
                self.reply(&views::reason(reason), false, Vec::new()).await
            }
            Method::Resolve { images, platform } => {
                self.resolve(&generations, (images, platform)).await
            }
            Method::Login {
                registry,
                user,
                password,
            } => {
                let asked = (registry.as_str(), user.as_str(), password.0.as_str());
                let login = registries::login(&generations, asked);
                let reply = while_connected(&self.stream, login).await?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Logout { registry } => {
                let reply = registries::logout(&generations, &registry).await?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::DeleteGenerations { numbers } => {
                self.delete_generations(&generations, numbers).await
            }
            Method::PinGeneration { number, pinned } => {
                self.pin_generation(&generations, number, pinned).await
            }
            Method::Collect {
                dry_run,
                keep,
                older_than,
            } => {
                let dry = dry_run == Some(true);
                self.collect(generations, dry, (keep, older_than)).await
            }
            Method::CheckStore { repair } => {
                let _place = self.long_reply().await?;
                self.check_store(generations, repair == Some(true), more)
                    .await
            }
            Method::Images {} => self.images(&generations).await,
            Method::InspectImage { image } => self.inspect_image(&generations, image).await,
            Method::PullImage { image, platform } => {
                self.pull_image(generations, (image, platform), more).await
            }
            Method::LoadImages { name } => self.load_images(&generations, name, more).await,
            Method::RemoveImages { images } => self.remove_images(&generations, images).await,
            Method::Events(call) => self.events(&generations, call, more).await,
            Method::Stats { pods, stack } => self.stats(&generations, pods, stack).await,
            Method::UsageHistory { pods, stack, since } => {
                self.usage_history(&generations, (pods, stack), since).await
            }
        }
    }

    /// Starts a change and sends its progress, where it is `shown`, and that of layers.
    async fn change<W, F>(&mut self, work: W, shown: (bool, bool)) -> Result<(), Refusal>
    where
        W: FnOnce(ProgressSender) -> F,
        F: Future<Output = ChangeResult> + Send + 'static,
    {
        let (sender, progress) = mpsc::channel(MAX_PROGRESS);
        let work = tokio::spawn(work(sender));
        self.stream_change(work, progress, shown).await
    }
}

type ChangeResult = Result<crate::generations::Switched, crate::generations::Error>;

fn to_switch(call: SwitchCall, uid: u32) -> Switch {
    let base_dir = call.base_dir.as_deref().map(Path::new);
    let files = call.files.unwrap_or_default();
    let asked = (files.as_slice(), call.source.as_str());
    let mut request = Request::new(call.config, base_dir, asked, uid);
    request.merge = call.merge == Some(true);
    request.replace = call.replace == Some(true);
    request.provenance = call.provenance;
    if let Some(stacks) = call.stacks {
        request.origins = to_host(stacks, &call.source, uid);
    }
    Switch {
        request,
        source: call.source,
        plan: call.plan,
        parent: call.parent,
        wait: call.wait,
        rollback: call.rollback != Some(false),
        timings: call.timings == Some(true),
    }
}

/// None: the drift of the current generation is asked for.
fn to_request(call: DiffCall, uid: u32) -> Option<Request> {
    let base_dir = call.base_dir.as_deref().map(Path::new);
    let asked = call.source.as_deref().unwrap_or("diff");
    let files = call.files.unwrap_or_default();
    let mut request = Request::new(call.config?, base_dir, (&files, asked), uid);
    request.looks = true;
    request.merge = call.merge == Some(true);
    request.replace = call.replace == Some(true);
    request.provenance = call.provenance;
    if let Some(stacks) = call.stacks {
        request.origins = to_host(stacks, asked, uid);
    }
    Some(request)
}

/// Where the pods of a whole host come from.
fn to_host(stacks: Vec<StackSource>, asked: &str, uid: u32) -> Origins {
    let origin = |from: StackSource| {
        let source = origin::source(&from.files, asked, uid);
        let base_dir = Some(PathBuf::from(from.base_dir));
        (from.stack, Origin { base_dir, source })
    };
    Origins::Host(stacks.into_iter().map(origin).collect())
}

fn to_deleted(
    named: (
        Option<String>,
        Option<String>,
        Option<String>,
        Option<String>,
    ),
    others: Vec<String>,
) -> Result<Deleted, Error> {
    match named {
        (Some(pod), None, None, None) => Ok(Deleted::Pods([vec![pod], others].concat())),
        (None, Some(stack), None, None) if others.is_empty() => Ok(Deleted::Stack(stack)),
        (None, None, Some(network), None) if others.is_empty() => Ok(Deleted::Network(network)),
        (None, None, None, Some(volume)) if others.is_empty() => Ok(Deleted::Volume(volume)),
        _ => {
            let problem = "name pods, a stack, a network or a shared volume, and no two of them";
            Err(Error::invalid(vec![problem.to_owned()]))
        }
    }
}

async fn status(
    generations: &Generations,
    (reconciler, there): (&Reconciler, &Pods),
) -> Result<varlink::StatusReply, Refusal> {
    let (generation, graph) = generations.current()?;
    let observed = reconciler.observe(&graph).await?;
    let mut pods = views::pods(&graph, &observed);
    by_hand::mark(&mut pods, &generations.overrides()?);
    by_hand::mark_runs(&mut pods, &there.runs().planned());
    let failed = generations.backups()?.into_iter();
    let failed: Vec<String> = failed
        .filter(|one| one.failed.is_some() || one.hangs.is_some())
        .map(|one| one.name())
        .collect();
    Ok(varlink::StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation,
        root: generation.map(|_| graph.root().to_string()),
        pods: pods.len() as u64,
        running: pods
            .iter()
            .filter(|pod| pod.state == varlink::State::Running)
            .count() as u64,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        failed_backups: Some(failed).filter(|failed| !failed.is_empty()),
        stopped: by_hand::stopped(&generations.overrides()?, &graph),
        unlimited: generations.unlimited().await,
        low: generations.low_space().await,
        stuck: crate::trash::words(),
        failing: states::failing(&pods),
    })
}

pub(super) async fn diff_reply(
    generations: &Generations,
    call: DiffCall,
    uid: u32,
    progress: ProgressSender,
) -> Result<varlink::DiffReply, Refusal> {
    let wants_dump = call.dump == Some(true);
    // What was fetched for it is not collected while it is looked at.
    let mut _held = None;
    let mut scope = None;
    let mut notes = None;
    let (parent, before, after) = match to_request(call, uid) {
        None => {
            let (parent, before) = generations.current()?;
            (parent, Arc::clone(&before), before)
        }
        Some(request) => {
            let intent = generations.intend(&request, &progress).await?;
            _held = Some(intent.held);
            let new = generations.notes_of_new(&intent.graph, &intent.scope).await;
            notes = Some(new).filter(|new| !new.is_empty());
            scope = Some(intent.scope);
            (intent.current, intent.before, intent.graph)
        }
    };
    let planned = generations.preview(&after, &before, scope.as_ref()).await?;
    let reply = varlink::DiffReply {
        changes: views::changes(&diff::diff(&before, &after)),
        steps: planned.plan.steps.iter().map(views::step).collect(),
        waiting: views::not_done(&planned.report),
        plan: planned.plan.hash(after.root()).to_string(),
        parent,
        by_hand: by_hand::sentences(&planned.report.stopped),
        dump: None,
        notes,
        progress: None,
    };
    if !wants_dump {
        return Ok(reply);
    }
    // It has the whole configuration, twice.
    let what = "write down what was observed";
    let write = move || serde_json::to_string(&planned.dump(&after, Some(&before)));
    let written = tokio::task::spawn_blocking(write).await;
    let written = written.map_err(|e| internal(what, e))?;
    Ok(varlink::DiffReply {
        dump: Some(written.map_err(|e| internal(what, e))?),
        ..reply
    })
}

async fn get_reply(
    generations: &Generations,
    reconciler: &Reconciler,
    pod: &str,
) -> Result<varlink::GetReply, Refusal> {
    let (_, graph) = generations.current()?;
    let name = generations.declared(&graph, pod)?;
    let observed = reconciler.observe(&graph).await?;
    let mut config = graph.config();
    config.pods.retain(|other, _| *other == name);
    let own: BTreeSet<Name> = config
        .pods
        .values()
        .flat_map(|pod| pod.networks.keys().cloned())
        .collect();
    config.networks.retain(|network, _| own.contains(network));
    let shared: BTreeSet<Name> = config
        .pods
        .iter()
        .flat_map(|(name, pod)| pod.volumes.values().filter_map(|own| own.shared_of(name)))
        .collect();
    config.volumes.retain(|volume, _| shared.contains(volume));
    let inputs = reconciler.read_inputs(&graph).await?;
    let target = inputs.target(&graph, None);
    let mut pods = [views::pod(&name, &graph, &observed)];
    by_hand::mark(&mut pods, &generations.overrides()?);
    let [pod] = pods;
    Ok(varlink::GetReply {
        pod: varlink::Pod {
            interfaces: views::interfaces(&name, &target, &observed),
            ..pod
        },
        config: canonical_text("encode a pod", &config)?,
    })
}

fn generation_diff(
    generations: &Generations,
    from: u64,
    to: u64,
) -> Result<varlink::ChangesReply, Refusal> {
    let (from, to) = (generations.graph_of(from)?, generations.graph_of(to)?);
    Ok(varlink::ChangesReply {
        changes: views::changes(&diff::diff(&from, &to)),
    })
}

fn generation_reply(
    generations: &Generations,
    number: Option<u64>,
) -> Result<varlink::GenerationReply, Refusal> {
    let (entry, config) = generations.get(number)?;
    let config = canonical_text("encode a generation", &config)?;
    Ok(varlink::GenerationReply {
        generation: views::generation(&entry),
        config,
    })
}

fn canonical_text(what: &str, config: &Config) -> Result<String, Error> {
    let bytes = canonical::encode(config).map_err(|e| internal(what, e))?;
    String::from_utf8(bytes).map_err(|e| internal(what, e))
}
