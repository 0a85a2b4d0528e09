//! Going back with one stack: the pods of that stack become what they were in an earlier generation,
//! and all others stay what they are. Nothing is evaluated and no tag is resolved.
//!
//! A change that is on its way is ended by it if it concerns the stack. Of such a change nothing
//! stays: what it did to other stacks was never judged, so they are again what they were before it.

use super::{
    Error, Generations, ProgressSender, Stage,
    data::Wanted,
    error::{Context, UnderWay},
    notify,
    provenance::Lines,
    request, rollback,
    switch::Candidate,
    way::{Aim, Switched},
};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{
    Generation, Graph, Key, Name, Outcome, Rollback, Scope, generation::last_good_that,
    name::nearest, spec::Container, stack::settle,
};

/// What one stack is taken back from, and to.
struct Back {
    current: u64,
    /// What the current generation declares.
    before: Arc<Graph>,
    /// A change of the stack that is on its way.
    ended: Option<u64>,
    /// Which generation all other stacks are as in: the current one, or that before what is ended.
    /// None: what is ended was the first.
    base: Option<u64>,
    target: Generation,
    note: String,
}

impl Generations {
    /// A change that is on its way, as it is named to who has to wait.
    pub(super) fn under_way(&self, newest: Generation) -> Result<UnderWay, Error> {
        let before = self.graph_or_empty(newest.parent)?;
        let after = self.graphs.get(newest.root)?;
        Ok(UnderWay {
            generation: newest.number,
            source: newest.source,
            stack: stack_of_difference(&before, &after),
        })
    }

    /// As [`Generations::rollback`], of one stack.
    pub(super) async fn rollback_part(
        &self,
        stack: &str,
        (to, with_data): (Option<u64>, bool),
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        // What can't be gone back to ends nothing.
        let (_, back) = self.part_back(stack, to, false)?;
        let _switching = match back.ended {
            Some(_) => self.supersede(progress).await?,
            None => self.begin(Some(back.current)).await?,
        };
        // Whatever was on its way when the lock was taken from it is over.
        let how = (to, with_data, back.ended.is_some());
        let back = self.stack_back(stack, how, uid, progress).await?;
        let parent = (back.current, back.before);
        self.go_back(parent, back.ended, back.candidate, progress)
            .await
    }

    /// What going back with one stack means as things are.
    pub(super) async fn stack_back(
        &self,
        stack: &str,
        (to, with_data, superseded): (Option<u64>, bool, bool),
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<rollback::Back, Error> {
        let (scope, back) = self.part_back(stack, to, superseded)?;
        let base = self.graph_or_empty(back.base)?;
        let target = self.graphs.get(back.target.root)?;
        let note = match target.stacks().contains(stack) {
            true => back.note.clone(),
            false => format!(
                "{}; that has nothing of `{stack}`, so all of it goes",
                back.note
            ),
        };
        notify(progress, Stage::Note, &note);
        let there = base.config();
        let earlier = target.config();
        let whole = there.with(&earlier, &scope);
        let known = self.known_provenance(back.base).unwrap_or_default();
        let then = self.known_provenance(Some(back.target.number));
        let then = then.unwrap_or_default();
        request::refuse_added_problems((&[&there, &earlier], &whole), &scope, &[&then, &known])?;
        let images = target.images();
        let found = |_: &Name, container: &Container| images.get(&container.image).copied();
        let graph = settle(whole, &base, &scope, found).doing("build the graph")?;
        let (to, of) = (back.target.number, Some(stack));
        let (data, notes) = match with_data {
            true => (
                self.wanted_data(to, &graph, of, progress).await?,
                Vec::new(),
            ),
            false => (
                Wanted::new(),
                self.note_left_data((to, of), &graph, progress).await,
            ),
        };
        let candidate = Candidate {
            graph: Arc::new(graph),
            data,
            source: format!("rollback of {stack} to {}", back.target.number),
            uid,
            provenance: Some(Lines::new(&known.with(then, &scope))?),
            scope,
            rollback: Some(Rollback::Part(back.target.number)),
            aim: Aim::ChangedRunning,
        };
        Ok(rollback::Back {
            current: Some(back.current),
            before: back.before,
            ended: back.ended,
            candidate,
            notes,
        })
    }

    /// Which generation the stack is taken from, and what is ended by that: a change that concerns the
    /// stack or, `superseded`, any that is on its way.
    fn part_back(
        &self,
        stack: &str,
        to: Option<u64>,
        superseded: bool,
    ) -> Result<(Scope, Back), Error> {
        let (current, before) = self.current()?;
        let current = current.ok_or(Error::NoSuchGeneration(to))?;
        let newest = self.judged(current)?;
        let (newest, outcome) = newest.ok_or(Error::NoSuchGeneration(Some(current)))?;
        let parent = self.graph_or_empty(newest.parent)?;
        let named = to.map(|number| self.graph_of(number)).transpose()?;
        // One that is gone by now may be in an earlier generation.
        let mut known: Vec<&Graph> = vec![&before, &parent];
        known.extend(named.as_deref());
        let is_known = Self::stack_of(stack, &known);
        let scope = match Name::new(stack) {
            Ok(name) => Scope::Stack(Some(name)),
            Err(_) => {
                return Err(is_known.map_or_else(|error| error, |_| Error::NoSuchGeneration(to)));
            }
        };
        let on_its_way = (outcome == Outcome::Pending).then_some(&newest);
        let concerned = superseded || parent.part(&scope) != before.part(&scope);
        let pending = on_its_way.filter(|_| concerned);
        let (target, note) = match (to, pending) {
            (Some(number), _) => {
                is_known?;
                self.part_of(stack, number)?
            }
            // Who asks for what is being done already does not mean the one before.
            (None, Some(pending)) if pending.rollback.is_some() => {
                let Generation { number, source, .. } = pending;
                let note = format!("generation {number} ({source}) is on its way already");
                (pending.clone(), note)
            }
            (None, _) => match self.last_good_part(stack, &scope, (current, &before))? {
                Some(found) => found,
                None => {
                    is_known?;
                    let stack = stack.to_owned();
                    return Err(Error::NothingGoodOf { current, stack });
                }
            },
        };
        let back = Back {
            current,
            ended: pending.map(|pending| pending.number),
            // Going back is never judged: what is gone back to stays.
            base: match pending.filter(|pending| pending.rollback.is_none()) {
                Some(pending) => pending.parent,
                None => Some(current),
            },
            before: Arc::clone(&before),
            target,
            note,
        };
        Ok((scope, back))
    }

    /// The generation that is named, and that in words.
    fn part_of(&self, stack: &str, number: u64) -> Result<(Generation, String), Error> {
        let found = self.judged(number)?;
        let (found, outcome) = found.ok_or_else(|| self.no_such(number))?;
        let was = match outcome {
            Outcome::Good => String::new(),
            bad => format!("; it was {bad}"),
        };
        let source = &found.source;
        let note = format!("taking `{stack}` back to generation {number} ({source}){was}");
        Ok((found, note))
    }

    /// The newest good generation in which a stack differs from what it is now, and that in words.
    fn last_good_part(
        &self,
        stack: &str,
        scope: &Scope,
        (current, before): (u64, &Graph),
    ) -> Result<Option<(Generation, String)>, Error> {
        let now = before.part(scope);
        let differs = |found: &Generation| {
            let then = self.graphs.get(found.root)?;
            Ok::<_, Error>(then.part(scope) != now)
        };
        let found = last_good_that(current, differs, |number| self.judged(number))?;
        Ok(found.map(|found| {
            let Generation { number, source, .. } = &found;
            let note = format!(
                "taking `{stack}` back to generation {number} ({source}), the newest good one in which it differs"
            );
            (found, note)
        }))
    }

    /// The stack of this name, which one of the graphs has.
    ///
    /// # Errors
    /// [`Error::NoSuchStack`], with the nearest one.
    pub(super) fn stack_of(stack: &str, graphs: &[&Graph]) -> Result<Name, Error> {
        let known = || graphs.iter().flat_map(|graph| graph.stacks());
        match Name::new(stack) {
            Ok(name) if known().any(|known| known == stack) => Ok(name),
            _ => Err(Error::NoSuchStack {
                stack: stack.to_owned(),
                nearest: nearest(stack, known()).map(str::to_owned),
            }),
        }
    }
}

/// The one stack in which two graphs differ. None: there are several, or pods that belong to none.
pub(super) fn stack_of_difference(before: &Graph, after: &Graph) -> Option<String> {
    let (before, after) = (before.part(&Scope::Host), after.part(&Scope::Host));
    let keys = before.keys().chain(after.keys());
    let differ = keys.filter(|key| before.get(key) != after.get(key));
    let stacks = differ.map(|key| match key {
        Key::Pod(name)
        | Key::Network(name)
        | Key::SharedVolume(name)
        | Key::SharedVolumeSize(name) => name.stack(),
        _ => None,
    });
    let stacks: BTreeSet<Option<&str>> = stacks.collect();
    match stacks.iter().collect::<Vec<_>>().as_slice() {
        [Some(stack)] => Some((*stack).to_owned()),
        _ => None,
    }
}
