//! What ends: main processes, second ones, and what they left behind.

use super::{MAX_EMPTYING, Pod, version};
use crate::{
    log::now_millis,
    run::{Output, exit_status},
};
use std::{os::fd::AsFd, time::Instant};
use tank_proto::{
    shim::{Event, ExitStatus, FromShim},
    terminal,
};
use tank_sys::{packet, process};

impl Pod {
    pub(super) fn exited(&mut self, name: &str, buffer: &mut [u8]) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        let Ok(Some(exit)) = process::try_wait(container.process.pidfd.as_fd()) else {
            return;
        };
        container.drain(buffer);
        let (exit, at) = (exit_status(exit), now_millis());
        container.exited = Some((exit, at));
        container.exited_boot = Some(tank_sys::clock::boot_millis());
        if let Output::Terminal(relay, _) = &mut container.output {
            relay.broadcast(&terminal::FromShim::Exited(status(exit)));
            relay.clients.clear();
        }
        if let Some(control) = container.control.take() {
            let packet = terminal::FromShim::Exited(status(exit)).encode();
            let _ = packet::send(control.as_fd(), &packet, &[]);
        }
        let event = FromShim::Event(Event::Exited {
            container: name.to_owned(),
            exit,
            at,
        });
        self.broadcast(&event);
    }

    /// Sends an event for each main process that somebody has stopped. Which child it was is asked
    /// of the kernel: signals merge.
    pub(super) fn stopped(&mut self, buffer: &mut [u8]) {
        while matches!(rustix::io::read(&self.children, &mut *buffer), Ok(1..)) {}
        if version() < 2 {
            return;
        }
        let running = self
            .containers
            .iter()
            .filter(|(_, container)| container.exited.is_none());
        let stopped: Vec<String> = running
            .filter(|(_, c)| process::is_stopped(c.process.pid))
            .map(|(name, _)| name.clone())
            .collect();
        for container in stopped {
            self.broadcast(&FromShim::Event(Event::Stopped { container }));
        }
    }

    fn broadcast(&self, event: &FromShim) {
        for index in 0..self.connections.len() {
            self.send(index, event, &[]);
        }
    }

    /// Ends processes that copy for nobody, and do not end by themselves.
    pub(super) fn end_overdue(&mut self) {
        let now = Instant::now();
        for exec in &mut self.execs {
            if exec.end_by.is_some_and(|by| by <= now) {
                exec.end_by = None;
                exec.kill();
            }
        }
    }

    /// A pid of 0 marks an ended one until [`Pod::tidy`].
    pub(super) fn exec_exited(&mut self, index: usize) {
        let Some(exec) = self.execs.get_mut(index) else {
            return;
        };
        let Ok(Some(exit)) = process::try_wait(exec.process.pidfd.as_fd()) else {
            return;
        };
        if let Some(control) = &exec.control {
            let packet = terminal::FromShim::Exited(status(exit_status(exit))).encode();
            let _ = packet::send(control.as_fd(), &packet, &[]);
        }
        exec.process.pid = 0;
        // Its group outlives it only until what it left behind is killed.
        if let Some(group) = exec.group.take() {
            group.kill();
            if !group.remove() && self.emptying.len() < MAX_EMPTYING {
                self.emptying.push(group);
            }
        }
    }
}

fn status(exit: ExitStatus) -> i32 {
    match exit {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    }
}
