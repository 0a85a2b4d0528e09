//! Which pods somebody asks for: by their names, or all of a stack's.

use super::{Error, Generations};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{Graph, Name};

impl Generations {
    /// The declared pods that are named, those of a stack, or all of them; and the graph that declares them. Blocking for as long
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
        let stack = stack
            .map(|stack| Self::stack_of(stack, &[&graph]))
            .transpose()?;
        let of_stack = |pod: &Name| {
            let stack = stack.as_ref().map(Name::as_str);
            stack.is_none() || pod.as_str().split_once(':').map(|(stack, _)| stack) == stack
        };
        let pods = match named {
            [] => graph.pods().cloned().collect(),
            named => named
                .iter()
                .map(|pod| self.declared(&graph, pod))
                .collect::<Result<BTreeSet<Name>, Error>>()?,
        };
        Ok((pods.into_iter().filter(of_stack).collect(), graph))
    }
}
