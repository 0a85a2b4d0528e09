//! A blob on its way, hashed: into memory, or to the process that converts it.

use crate::progress::Meter;
use sha2::{Digest as _, Sha256};
use std::{io, time::Instant};
use tank_model::Digest;
use tokio::{io::AsyncWriteExt as _, net::unix::pipe};

/// Where a blob goes.
#[derive(Debug)]
pub enum Way {
    /// Into memory.
    Memory(Vec<u8>),
    /// Through a pipe, for as long as anybody reads it.
    Pipe(pipe::Sender),
    /// Nowhere: it is counted and hashed.
    Nowhere,
}

/// A blob on its way.
#[derive(Debug)]
pub struct Intake {
    way: Way,
    hasher: Sha256,
    meter: Option<Meter>,
}

impl Intake {
    /// One of which nothing has come.
    pub fn new(way: Way) -> Self {
        Self {
            way,
            hasher: Sha256::new(),
            meter: None,
        }
    }

    /// Whether it is a layer that comes, and no document.
    pub fn is_layer(&self) -> bool {
        !matches!(self.way, Way::Memory(_))
    }

    /// Has what comes from now on counted.
    pub fn watch(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Takes bytes that have come.
    ///
    /// # Errors
    /// What writing gives.
    pub async fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        if let Some(meter) = &mut self.meter {
            meter.add(bytes.len() as u64, Instant::now());
        }
        match &mut self.way {
            Way::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
            Way::Pipe(pipe) => match pipe.write_all(bytes).await {
                // Who reads no more says why elsewhere. What it was is known by its digest.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.way = Way::Nowhere;
                    Ok(())
                }
                other => other,
            },
            Way::Nowhere => Ok(()),
        }
    }

    /// The digest of what has come, and what is in memory. Whoever reads a pipe is at its end.
    pub fn finish(self) -> (Digest, Vec<u8>) {
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        match self.way {
            Way::Memory(memory) => (digest, memory),
            Way::Pipe(_) | Way::Nowhere => (digest, Vec::new()),
        }
    }
}
