//! Connections to ports of pods.

use super::{client::Client, refusal::Refusal, streams::while_connected, views};
use crate::pods::forward::{self, ConnectError};
use std::net::IpAddr;
use tank_model::Name;
use tank_proto::varlink::{Error, ForwardReply};

impl Client {
    /// Hands a connection to a port of a pod to the client.
    pub(super) async fn forward(&mut self, pod: &str, port: Option<u16>) -> Result<(), Refusal> {
        let (_, graph) = self.floors.generations.current()?;
        let pod = self.floors.generations.declared_or_run(&graph, pod)?;
        let what = match port {
            Some(port) => format!("connect to port {port} of pod `{pod}`"),
            None => format!("connect to pod `{pod}`"),
        };
        let failed = |why: String| Error::failed(what.clone(), why);
        if port == Some(0) {
            return Err(failed("there is no port 0".to_owned()).into());
        }
        let shim = self.floors.pods.get(&pod);
        let shim =
            shim.ok_or_else(|| failed(format!("it does not run: `tank explain {pod}` says why")))?;
        let Some(port) = port else {
            return self
                .reply(&ForwardReply { address: None }, false, Vec::new())
                .await;
        };
        let own = async || self.addresses(&pod).await;
        let connect = async { Ok(forward::connect(&shim, own, port).await) };
        let connected = while_connected(&self.stream, connect).await?;
        let (address, socket) = connected.map_err(|error| {
            failed(match &error {
                ConnectError::Pod(error) => crate::pods::why(error),
                other => other.to_string(),
            })
        })?;
        let reply = ForwardReply {
            address: Some(address.to_string()),
        };
        self.reply(&reply, false, vec![socket]).await
    }

    /// What a pod is called by others. None, where that can't be read: it is not connected to then.
    async fn addresses(&self, pod: &Name) -> Vec<IpAddr> {
        let Ok((_, graph)) = self.floors.generations.current() else {
            return Vec::new();
        };
        let Ok(observed) = self.floors.reconciler.observe(&graph).await else {
            return Vec::new();
        };
        let addresses = views::pod(pod, &graph, &observed).addresses;
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        addresses.collect()
    }
}
