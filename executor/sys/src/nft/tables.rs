//! The tables of one name, kept as they should be.
//!
//! Where only elements of sets differ, only these are sent; where anything else does, whole tables
//! are. Both are one transaction, and which it is changes nothing of what is there afterwards.
//!
//! The kernel numbers its rulesets: every transaction, of anybody in the network namespace, makes the
//! number one higher. A difference is of the ruleset that was read, and is sent with its number: it is
//! refused when somebody was faster, and the tables are read again. Whole tables are right whatever
//! was there, and need no number.
//!
//! The socket is kept open. What a transaction removes is freed after a grace period of RCU, and
//! `close(2)` of any socket of nfnetlink waits for that: some milliseconds, which are many times
//! what the transaction takes.

use super::{Table, TableFamily, decode, encode};
use crate::{Context, Result, netlink::Socket};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{
    io,
    sync::{Mutex, PoisonError},
};

/// How often a difference is worked out anew, because somebody else changed rules meanwhile, before
/// whole tables are sent.
const DIFFERENCE_TRIES: u32 = 3;

/// How often tables are read anew until all of them are of one ruleset.
const LIST_TRIES: u32 = 4;

/// `ERESTART` of the kernel, which libc does not name.
const RESTART: i32 = 85;

/// The tables of one name, one of each family.
#[derive(Debug)]
pub struct Tables {
    name: String,
    socket: Socket,
    /// What was read or written last. Its lock is held over a whole change.
    known: Mutex<Option<Known>>,
}

/// What the tables hold in a ruleset.
#[derive(Clone, Debug)]
struct Known {
    generation: u32,
    tables: Vec<(TableFamily, Option<Table>)>,
}

/// How tables were made what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// They were that.
    Nothing,
    /// By elements of sets.
    Elements,
    /// As a whole.
    Whole,
}

impl Tables {
    /// Those called `name` in the caller's network namespace, which need not be there.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open(name: &str) -> Result<Self> {
        let socket = Socket::open(NETLINK_NETFILTER).doing(|| "ask for nftables")?;
        Ok(Self {
            name: name.to_owned(),
            socket,
            known: Mutex::new(None),
        })
    }

    /// What is in them, one of each family; none where there is no such table. Blocking.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn list(&self) -> Result<Vec<(TableFamily, Option<Table>)>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let what = || format!("list the nftables tables `{}`", self.name);
        self.read(&mut known).doing(what)
    }

    /// Makes them hold what `tables` say, one of each family: all of them, or none. Blocking.
    ///
    /// # Errors
    /// `EINVAL` for a table with an `Other`, and what the kernel answers; the tables are then as they
    /// were.
    pub fn ensure(&self, tables: &[(TableFamily, Table)]) -> Result<Written> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let what = || format!("change the nftables tables `{}`", self.name);
        self.write(&mut known, tables).doing(what)
    }

    /// Removes them, as far as they are there. Blocking.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove(&self) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = None;
        let families = TableFamily::ALL.iter();
        let messages = families
            .flat_map(|family| encode::removal(*family, &self.name))
            .collect();
        let what = || format!("remove the nftables tables `{}`", self.name);
        self.commit(None, messages).doing(what)
    }

    /// Reads all of them, as they are in one ruleset if they hold still for it.
    fn read(&self, known: &mut Option<Known>) -> io::Result<Vec<(TableFamily, Option<Table>)>> {
        let mut tries = 0;
        loop {
            *known = None;
            let generation = decode::generation(&self.socket)?;
            let list = |family| Ok((family, decode::list(&self.socket, family, &self.name)?));
            let tables: Vec<_> = TableFamily::ALL
                .into_iter()
                .map(list)
                .collect::<io::Result<_>>()?;
            tries += 1;
            if decode::generation(&self.socket)? == generation {
                let tables = tables.clone();
                *known = Some(Known { generation, tables });
            } else if tries < LIST_TRIES {
                continue;
            }
            // Whatever changes them meanwhile is notified of, and read again.
            return Ok(tables);
        }
    }

    fn write(
        &self,
        known: &mut Option<Known>,
        tables: &[(TableFamily, Table)],
    ) -> io::Result<Written> {
        for _ in 0..DIFFERENCE_TRIES {
            if known.is_none() {
                self.read(known)?;
            }
            let Some(Known {
                generation,
                tables: found,
            }) = known.take()
            else {
                continue;
            };
            let (messages, written) = self.difference(&found, tables)?;
            if messages.is_empty() {
                *known = Some(Known {
                    generation,
                    tables: found,
                });
                // What is known was so when it was read: it is what there is if that still holds.
                if decode::generation(&self.socket)? == generation {
                    return Ok(Written::Nothing);
                }
                *known = None;
                continue;
            }
            match self.commit(Some(generation), messages) {
                Ok(()) => {
                    *known = Some(Known::after(generation, tables));
                    return Ok(written);
                }
                Err(error) if error.raw_os_error() == Some(RESTART) => {}
                Err(error) => return Err(error),
            }
        }
        let mut messages = Vec::new();
        for (family, table) in tables {
            messages.extend(encode::replacement(*family, &self.name, table)?);
        }
        self.commit(None, messages)?;
        Ok(Written::Whole)
    }

    /// What makes `found` what it should be: elements where nothing else differs, and whole tables
    /// of the others.
    fn difference(
        &self,
        found: &[(TableFamily, Option<Table>)],
        tables: &[(TableFamily, Table)],
    ) -> io::Result<(Vec<(NetfilterMessage, u16)>, Written)> {
        let (mut messages, mut written) = (Vec::new(), Written::Nothing);
        for (family, table) in tables {
            let is_own = |(own, _): &&(TableFamily, Option<Table>)| own == family;
            let found = found
                .iter()
                .find(is_own)
                .and_then(|(_, found)| found.as_ref());
            let changes = match found {
                Some(found) => encode::changes(*family, &self.name, (found, table))?,
                None => None,
            };
            if let Some(changes) = changes {
                if !changes.is_empty() && written == Written::Nothing {
                    written = Written::Elements;
                }
                messages.extend(changes);
            } else {
                written = Written::Whole;
                messages.extend(encode::replacement(*family, &self.name, table)?);
            }
        }
        Ok((messages, written))
    }

    fn commit(
        &self,
        generation: Option<u32>,
        messages: Vec<(NetfilterMessage, u16)>,
    ) -> io::Result<()> {
        let (begin, end) = encode::batch_ends(generation);
        let done = self.socket.batch(begin, messages, Some(end));
        done.map_err(|refused| refused.error)
    }
}

impl Known {
    /// What there is after a transaction that began with a ruleset. No ruleset has the number 0.
    fn after(generation: u32, tables: &[(TableFamily, Table)]) -> Self {
        let tables = tables.iter();
        Self {
            generation: generation.checked_add(1).unwrap_or(1),
            tables: tables
                .map(|(family, table)| (*family, Some(table.clone())))
                .collect(),
        }
    }
}
