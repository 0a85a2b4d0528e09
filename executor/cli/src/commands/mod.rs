//! One module for each family of commands.

mod backup;
mod bundle;
mod by_hand;
mod change;
mod config;
mod copy;
mod disk;
mod doctor;
mod events;
mod exec;
mod forward;
mod frames;
mod gc;
mod image;
mod image_save;
mod import;
mod list;
mod lock;
mod login;
mod logs;
mod manual;
mod rollback;
mod source;
mod stats;
mod transfer;
mod view;
mod volume;

pub use config::EVALUATE;

use crate::{
    args::{Args, Command, Configuration, Files, Generations, Images, Listed, Volumes},
    client::Client,
    error::Error,
    timings::Timings,
};
use tank_proto::varlink::{Method, Operation, RemoveVolumesCall};

/// Runs a command and returns the status it ends with.
// long: it has an arm for each command
pub async fn run(args: Args) -> Result<u8, Error> {
    let json = args.json;
    let connect = || Client::connect(&args.socket);
    match args.command {
        Command::Check(source) => config::check(&source, json),
        Command::Build {
            source,
            graph,
            canonical,
        } => config::build(&source, graph, canonical, json),
        Command::Lock {
            files,
            overrides,
            update,
            check,
        } => {
            let request = lock::Request {
                files,
                overrides,
                update,
                check,
            };
            lock::lock(&args.socket, request, json).await
        }
        Command::Init { file, force } => manual::init(&file, force),
        Command::Import {
            files,
            from,
            output,
            force,
            stack,
            strict,
        } => import::import(
            (&files, from),
            stack.as_ref(),
            (output.as_deref(), force),
            strict,
            json,
        ),
        Command::Doc {
            field,
            error,
            import_path,
        } => manual::doc(field.as_deref(), error.as_deref(), import_path),
        Command::Login {
            registry,
            user,
            password_stdin,
        } => {
            let who = login::Who {
                user,
                password_stdin,
            };
            login::login(&args.socket, registry, who, json).await
        }
        Command::Logout { registry } => login::logout(&args.socket, registry, json).await,
        Command::Why { field } => view::why(&mut connect().await?, &field, json).await,
        Command::Diff {
            files,
            overrides,
            stack,
            host,
            apply,
            replace,
            exit_code,
            observed,
        } => {
            let declared = config::compile_some(&Configuration {
                files,
                overrides,
                stack,
                host,
            })?;
            let how = change::How {
                merge: apply,
                replace,
            };
            let show = change::Show {
                exit_code,
                observed,
                json,
            };
            change::diff(&mut connect().await?, declared, how, &show).await
        }
        Command::Switch {
            source,
            change,
            plan,
            replace,
        } => {
            let how = change::How {
                merge: false,
                replace,
            };
            change::switch(&args.socket, &source, &change, plan, how, json).await
        }
        Command::Apply {
            files,
            overrides,
            stack,
            change,
            plan,
            replace,
        } => {
            let source = Configuration {
                files,
                overrides,
                stack,
                host: None,
            };
            let how = change::How {
                merge: true,
                replace,
            };
            change::switch(&args.socket, &source, &change, plan, how, json).await
        }
        Command::Delete { mut pods, stack } => {
            let stack = stack.map(|stack| stack.to_string());
            let others = pods.split_off(pods.len().min(1));
            let pod = pods.pop();
            let below = |group: &str| {
                let rest = pod.as_deref().and_then(|named| named.strip_prefix(group));
                rest.map(str::to_owned)
            };
            let (network, volume) = (below("networks."), below("volumes."));
            let pod = pod.filter(|_| network.is_none() && volume.is_none());
            let named = pod.as_deref().or(network.as_deref()).or(volume.as_deref());
            let of_named = named.and_then(|named| named.split_once(':'));
            let own = stack
                .clone()
                .or(of_named.map(|(stack, _)| stack.to_owned()));
            change::follow(
                &mut connect().await?,
                Method::Delete {
                    pod,
                    stack,
                    network,
                    volume,
                    others: Some(others).filter(|others| !others.is_empty()),
                },
                (own, Timings::default()),
                json,
            )
            .await
        }
        Command::Stop(asked) => {
            let asked = by_hand::Asked {
                operation: Operation::Stop,
                which: asked.which,
                timeout: asked.timeout,
                wait: None,
            };
            by_hand::operate(&mut connect().await?, asked, json).await
        }
        Command::Start(asked) => {
            let asked = by_hand::Asked {
                operation: Operation::Start,
                which: asked.which,
                timeout: None,
                wait: asked.wait,
            };
            by_hand::operate(&mut connect().await?, asked, json).await
        }
        Command::Restart(asked) => {
            let asked = by_hand::Asked {
                operation: Operation::Restart,
                which: asked.which,
                timeout: asked.timeout,
                wait: asked.wait,
            };
            by_hand::operate(&mut connect().await?, asked, json).await
        }
        Command::Explain { pod } => by_hand::explain(&mut connect().await?, pod, json).await,
        Command::Generations(Generations::List) => {
            view::generations(&mut connect().await?, json).await
        }
        Command::Generations(Generations::Show { number }) => {
            view::generation(&mut connect().await?, number, json).await
        }
        Command::Generations(Generations::Diff { from, to }) => {
            view::generation_diff(&mut connect().await?, from, to, json).await
        }
        Command::Generations(Generations::Rollback {
            to,
            stack,
            with_data,
            dry_run,
            exit_code,
        }) => {
            let stack = stack.map(|stack| stack.to_string());
            if dry_run {
                let call = Method::DiffRollback {
                    to,
                    stack,
                    with_data: with_data.then_some(true),
                };
                let mut client = connect().await?;
                return rollback::diff(&mut client, call, exit_code, json).await;
            }
            change::follow(
                &mut connect().await?,
                Method::Rollback {
                    to,
                    stack: stack.clone(),
                    with_data: with_data.then_some(true),
                },
                (stack, Timings::default()),
                json,
            )
            .await
        }
        Command::Generations(Generations::Delete { numbers }) => {
            gc::delete(&mut connect().await?, numbers, json).await
        }
        Command::Generations(Generations::Pin { number }) => {
            gc::pin(&mut connect().await?, number, true, json).await
        }
        Command::Generations(Generations::Unpin { number }) => {
            gc::pin(&mut connect().await?, number, false, json).await
        }
        Command::Generations(Generations::Export { number, output }) => {
            bundle::export(&mut connect().await?, number, output.as_deref(), json).await
        }
        Command::Generations(Generations::Import(asked)) => {
            bundle::import(&mut connect().await?, &asked, json).await
        }
        Command::Image(Images::Save { images, output }) => {
            image_save::save(&mut connect().await?, images, output.as_deref(), json).await
        }
        Command::Gc {
            dry_run,
            keep,
            older_than,
        } => {
            let which = (keep, older_than.map(|age| age.0));
            gc::collect(&mut connect().await?, dry_run, which, json).await
        }
        Command::Fsck { repair } => gc::fsck(&mut connect().await?, repair, json).await,
        Command::List(asked) => {
            let (mut client, stack) = (connect().await?, asked.stack.as_ref());
            match asked.what {
                Listed::Pods => list::list(&mut client, stack, asked.wide, json).await,
                Listed::Networks => list::networks(&mut client, stack, json).await,
            }
        }
        Command::Get { pod } => view::get(&mut connect().await?, pod, json).await,
        Command::Status => view::status(&mut connect().await?, json).await,
        Command::Volume(Volumes::List) => volume::list(&mut connect().await?, json).await,
        Command::Volume(Volumes::Remove {
            volumes,
            orphans,
            replaced,
            dry_run,
        }) => {
            let call = RemoveVolumesCall {
                volumes: (!orphans).then_some(volumes),
                orphans: orphans.then_some(true),
                dry_run: dry_run.then_some(true),
                replaced: replaced.then_some(true),
            };
            volume::remove(&mut connect().await?, call, json).await
        }
        Command::Volume(Volumes::Backups(command)) => {
            backup::backups(&mut connect().await?, command, json).await
        }
        Command::Volume(Volumes::Export { volume, output }) => {
            volume::export(&mut connect().await?, volume, output.as_deref(), json).await
        }
        Command::Volume(Volumes::Import {
            volume,
            file,
            replace,
        }) => {
            let into = (volume, replace);
            volume::import(&mut connect().await?, into, file.as_deref(), json).await
        }
        Command::Image(Images::List) => image::list(&mut connect().await?, json).await,
        Command::Image(Images::Inspect { image }) => {
            image::inspect(&mut connect().await?, image, json).await
        }
        Command::Image(Images::Pull { image, platform }) => {
            image::pull(&mut connect().await?, (image, platform), json).await
        }
        Command::Image(Images::Load { file, input, name }) => {
            let file = file.or(input);
            image::load(&mut connect().await?, file.as_deref(), name, json).await
        }
        Command::Image(Images::Remove { images }) => {
            image::remove(&mut connect().await?, images, json).await
        }
        Command::Files(Files::Cp(args)) => copy::copy(&mut connect().await?, args, json).await,
        Command::Files(Files::DiskUsage) => disk::usage(&mut connect().await?, json).await,
        Command::Exec(exec) => exec::exec(&mut connect().await?, exec).await,
        Command::Run(run) => exec::run(&mut connect().await?, run).await,
        Command::Attach { target } => exec::attach(&mut connect().await?, &target).await,
        Command::PortForward(asked) => forward::forward(&args.socket, asked, json).await,
        Command::Logs(call) => logs::logs(&mut connect().await?, call, json).await,
        Command::Events(asked) => events::events(&mut connect().await?, asked, json).await,
        Command::Stats(asked) => stats::stats(&mut connect().await?, asked, json).await,
        Command::Doctor => doctor::doctor(&args.socket, json).await,
    }
}
