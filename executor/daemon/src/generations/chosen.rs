//! Which pods and volumes somebody means: by their names, or all of a stack's. A name may be without its stack where only one
//! stack has it ([`tank_model::meant`]); what is removed is named whole.

use super::{Error, Generations};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{
    Graph, Name, Scope, VolumeId,
    meant::{self, Meant},
};

impl Generations {
    /// The name of a declared pod, which may be asked for without its stack; or an error with the nearest one, or with all that
    /// could be meant.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], or [`Error::OfRun`].
    pub fn declared(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        let meant = meant::meant(pod, graph.pods().map(Name::as_str));
        found(graph, pod, meant).map_err(|unknown| self.refused_as_run(pod).unwrap_or(unknown))
    }

    /// As [`Generations::declared`], by its whole name alone: of what is removed.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`].
    pub fn declared_exactly(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        found(
            graph,
            pod,
            meant::exactly(pod, graph.pods().map(Name::as_str)),
        )
    }

    /// As [`Generations::declared`], of a stack if one is named: of that, `web` is its own.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`].
    pub fn declared_in(
        &self,
        graph: &Graph,
        stack: Option<&str>,
        pod: &str,
    ) -> Result<Name, Error> {
        let own = stack.map(|stack| format!("{stack}:{pod}"));
        let own = own.and_then(|own| graph.pods().find(|name| name.as_str() == own).cloned());
        own.map_or_else(|| self.declared(graph, pod), Ok)
    }

    /// The declared pods that are named, and those of runs by hand, those of a stack, or all of them; and the graph that declares them. Blocking for as long
    /// as the store is.
    ///
    /// # Errors
    /// When one is not declared, or the store can't be read.
    pub fn chosen(
        &self,
        named: &[String],
        stack: Option<&str>,
    ) -> Result<(BTreeSet<Name>, Arc<Graph>), Error> {
        let (_, graph) = self.current()?;
        let scope = stack
            .map(|stack| Ok::<_, Error>(Scope::Stack(Some(Self::stack_of(stack, &[&graph])?))))
            .transpose()?;
        let pods = match named {
            [] => graph.pods().cloned().collect(),
            named => named
                .iter()
                .map(|pod| match self.run_named(&graph, pod, None) {
                    Some(named) if stack.is_none() => Ok(named.pod),
                    _ => self.declared_in(&graph, stack, pod),
                })
                .collect::<Result<BTreeSet<Name>, Error>>()?,
        };
        let is_of = |pod: &Name| scope.as_ref().is_none_or(|scope| scope.has(pod));
        Ok((pods.into_iter().filter(is_of).collect(), graph))
    }

    /// Refuses the name of a stack that there is not, as every command does that takes one.
    ///
    /// # Errors
    /// [`Error::NoSuchStack`], or the store can't be read.
    pub fn known_stack(&self, stack: &str) -> Result<(), Error> {
        let (_, graph) = self.current()?;
        Self::stack_of(stack, &[&graph]).map(drop)
    }

    /// The whole name of a volume that is read: one that is kept or declared. What means none, or several, is given back as it is:
    /// who looks for it says so.
    pub fn volume_name(&self, name: &str) -> String {
        let kept = self.volumes.kept().unwrap_or_default();
        let mut all: BTreeSet<String> = kept.iter().map(VolumeId::to_string).collect();
        if let Ok((_, graph)) = self.current() {
            all.extend(super::kept::managed(&graph).iter().map(VolumeId::to_string));
            // A volume that pods share has the name that each gives it, too.
            let of_pods = graph.pods().flat_map(|pod| {
                let volumes = graph.volumes(pod);
                volumes.map(move |(volume, _)| format!("{pod}/{volume}"))
            });
            all.extend(of_pods);
        }
        match meant::meant(name, all.iter().map(String::as_str)) {
            Meant::One(whole) => whole.to_owned(),
            Meant::Several(_) | Meant::None(_) => name.to_owned(),
        }
    }
}

/// The pod of a graph that is meant.
fn found(graph: &Graph, pod: &str, meant: Meant<'_>) -> Result<Name, Error> {
    let (nearest, several) = match meant {
        Meant::One(whole) => {
            let found = graph.pods().find(|name| name.as_str() == whole).cloned();
            match found {
                Some(name) => return Ok(name),
                None => (None, Vec::new()),
            }
        }
        Meant::Several(all) => (None, all.into_iter().map(str::to_owned).collect()),
        Meant::None(nearest) => (nearest.map(str::to_owned), Vec::new()),
    };
    Err(Error::NoSuchPod {
        pod: pod.to_owned(),
        nearest,
        several,
    })
}
