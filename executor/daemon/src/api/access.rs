//! Who may call, and how many at once. Both are settled before a byte of a client is read.
//!
//! * The socket's mode lets in root and, where there is one, the group `tank`: the kernel refuses
//!   everybody else.
//! * [`Authorizer::authorize`] asks for the caller's own groups, since a connected socket can be
//!   handed on.
//! * [`Places`] holds places for root that nobody else can take, bounds what one user takes of the
//!   rest, and closes the connection that has waited longest without a call where there are too
//!   many. A call in flight is never closed.

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_sys::privilege::group_id;
use tokio::{
    net::UnixStream,
    sync::{Notify, Semaphore},
    time::timeout,
};
use zlink::connection::socket::{FetchPeerCredentials, UnixSocket};

/// Whose members may do what root may.
const GROUP: &str = "tank";

/// The most connections of root, of everybody else together, and of each of those users.
const ROOT: usize = 256;
const MEMBERS: usize = 256;
const MEMBER: usize = 64;

/// The longest wait for the name service, and the most requests to it at once.
const NAME_SERVICE_LIMIT: Duration = Duration::from_secs(5);
const NAME_SERVICE_CALLS: usize = 4;

/// Gives the socket to those who may use it: root, and the group where it exists.
///
/// # Errors
/// What `chown(2)` and `chmod(2)` give.
pub fn restrict(socket: &Path) -> std::io::Result<()> {
    let group = group_id(GROUP);
    if group.is_some() {
        std::os::unix::fs::chown(socket, Some(0), group)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))
}

/// A peer whose credentials zlink asks the kernel for.
struct Peer<'a>(&'a UnixStream);

impl AsFd for Peer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UnixSocket for Peer<'_> {}

/// Decides who comes in.
pub struct Authorizer {
    name_service: Arc<Semaphore>,
}

impl Default for Authorizer {
    fn default() -> Self {
        Self {
            name_service: Arc::new(Semaphore::new(NAME_SERVICE_CALLS)),
        }
    }
}

impl Authorizer {
    /// The user who called, if it may: root, or with the group among its own when it connected.
    pub async fn authorize(&self, stream: &UnixStream) -> Option<u32> {
        let credentials = Peer(stream).fetch_peer_credentials().await.ok()?;
        let uid = credentials.unix_user_id().as_raw();
        if uid == 0 {
            return Some(uid);
        }
        let tank = timeout(NAME_SERVICE_LIMIT, self.group())
            .await
            .ok()
            .flatten()?;
        let own = std::iter::once(credentials.unix_primary_group_id());
        let mut groups = own.chain(credentials.unix_supplementary_group_ids().iter().copied());
        groups.any(|group| group.as_raw() == tank).then_some(uid)
    }

    /// The group's id. The name service may use a network: it does so on a thread that may block.
    async fn group(&self) -> Option<u32> {
        let permit = Arc::clone(&self.name_service).acquire_owned().await.ok()?;
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            group_id(GROUP)
        });
        asked.await.ok().flatten()
    }
}

/// The connections there are.
#[derive(Default)]
pub struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    /// Counts up: the next place's number, and the time by which those that wait are ordered.
    clock: u64,
    places: BTreeMap<u64, Held>,
}

struct Held {
    uid: u32,
    /// Since when no call is in flight.
    idle: Option<u64>,
    close: Arc<Notify>,
}

/// What becomes of a caller.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Admit,
    /// In the place of this one, which waits longest.
    Instead(u64),
    /// Everyone has a call in flight.
    Full,
}

/// Pure.
fn verdict(taken: &BTreeMap<u64, Held>, uid: u32) -> Verdict {
    let verdict = |most: usize, counts: &dyn Fn(u32) -> bool| {
        let of = || taken.iter().filter(|(_, held)| counts(held.uid));
        if of().count() < most {
            return Verdict::Admit;
        }
        let idle = of().filter_map(|(id, held)| Some((held.idle?, *id))).min();
        idle.map_or(Verdict::Full, |(_, id)| Verdict::Instead(id))
    };
    match uid {
        0 => verdict(ROOT, &|other| other == 0),
        // First at one's own expense.
        _ => match verdict(MEMBER, &|other| other == uid) {
            Verdict::Admit => verdict(MEMBERS, &|other| other != 0),
            own => own,
        },
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a caller; none: every place that it could have has a call in flight.
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.lock();
        match verdict(&taken.places, uid) {
            Verdict::Admit => {}
            Verdict::Instead(id) => {
                if let Some(held) = taken.places.remove(&id) {
                    held.close.notify_one();
                }
            }
            Verdict::Full => return None,
        }
        taken.clock += 1;
        let (id, close) = (taken.clock, Arc::new(Notify::new()));
        taken.places.insert(
            id,
            Held {
                uid,
                idle: Some(id),
                close: Arc::clone(&close),
            },
        );
        Some(Place {
            places: Arc::clone(self),
            id,
            close,
        })
    }
}

/// Held for as long as a connection is open.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    close: Arc<Notify>,
}

impl Place {
    /// Waits until another connection has taken this place, which only happens while no call is in
    /// flight.
    pub async fn lost(&self) {
        self.close.notified().await;
    }

    /// A call begins: nobody takes the place until [`Place::waits`]. False: another connection has
    /// taken it before, and the call must not be handled.
    pub fn works(&self) -> bool {
        self.places
            .lock()
            .places
            .get_mut(&self.id)
            .map(|held| held.idle = None)
            .is_some()
    }

    /// No call is in flight any more.
    pub fn waits(&self) {
        let mut taken = self.places.lock();
        taken.clock += 1;
        let now = taken.clock;
        if let Some(held) = taken.places.get_mut(&self.id) {
            held.idle = Some(now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(uids: impl IntoIterator<Item = (u32, Option<u64>)>) -> BTreeMap<u64, Held> {
        let held = |(uid, idle)| Held {
            uid,
            idle,
            close: Arc::default(),
        };
        uids.into_iter()
            .enumerate()
            .map(|(id, of)| (id as u64, held(of)))
            .collect()
    }

    #[test]
    fn nobody_takes_a_place_of_root() {
        let members = (0..MEMBERS as u32).map(|n| (1000 + n, None));
        assert_eq!(verdict(&taken(members.clone()), 0), Verdict::Admit);
        assert_eq!(verdict(&taken(members), 5), Verdict::Full);
        let root = (0..ROOT).map(|_| (0, None));
        assert_eq!(verdict(&taken(root), 1000), Verdict::Admit);
    }

    #[test]
    fn who_takes_too_many_loses_the_one_that_waits_longest() {
        let mut own: Vec<(u32, Option<u64>)> = vec![(1001, Some(1))];
        own.extend((0..MEMBER as u64).map(|n| (1000, (n % 2 == 0).then_some(100 - n))));
        assert_eq!(
            verdict(&taken(own.clone()), 1000),
            Verdict::Instead(MEMBER as u64 - 1)
        );
        assert_eq!(verdict(&taken(own.clone()), 1001), Verdict::Admit);
        own.iter_mut().for_each(|(_, idle)| *idle = None);
        assert_eq!(verdict(&taken(own), 1000), Verdict::Full);
    }

    #[test]
    fn users_together_make_room_for_another_one() {
        let idle = (0..MEMBERS as u64).map(|n| (1000 + n as u32 / 60, Some(MEMBERS as u64 - n)));
        assert_eq!(
            verdict(&taken(idle), 5),
            Verdict::Instead(MEMBERS as u64 - 1)
        );
    }

    #[tokio::test]
    async fn a_lost_place_is_notified_and_one_with_a_call_is_not_lost() {
        let places = Arc::new(Places::default());
        let held: Vec<Place> = (0..MEMBER)
            .map(|_| places.take(1000).expect("a place"))
            .collect();
        assert!(held[0].works());
        let more = places.take(1000).expect("in the place of the second");
        held[1].lost().await;
        assert!(held[0].works() && !held[1].works() && more.works());
        held[0].waits();
        drop(held);
        assert_eq!(places.lock().places.len(), 1);
    }
}
