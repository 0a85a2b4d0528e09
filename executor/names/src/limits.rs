//! What each client may take, so that none takes the server from another.
//!
//! Queries that come too fast are dropped before they are read: a bucket for each client, which
//! fills with time. Queries that others are asked and connections have places: a client may have
//! an eighth of those that are free, so that of many that flood each gets less, and whoever comes
//! next still finds some.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// Queries a second that a client may send for long.
pub const RATE: u32 = 50_000;

/// Queries that a client may send at once.
pub const BURST: u32 = 25_000;

/// The buckets of clients.
#[derive(Default)]
pub struct Buckets(HashMap<IpAddr, Bucket>);

struct Bucket {
    /// In thousandths of a query.
    left: u64,
    at: Instant,
}

impl Buckets {
    /// Takes a query out of a client's bucket. False: it is empty.
    pub fn take(&mut self, client: IpAddr, now: Instant) -> bool {
        const WHOLE: u64 = 1000;
        let full = u64::from(BURST) * WHOLE;
        let bucket = self.0.entry(client).or_insert(Bucket {
            left: full,
            at: now,
        });
        let since = now.saturating_duration_since(bucket.at);
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(u64::from(RATE)) / 1000;
        // What is less than a thousandth is not lost: the time is kept until it is more.
        if gained > 0 {
            bucket.left = bucket.left.saturating_add(gained).min(full);
            bucket.at = now;
        }
        let enough = bucket.left >= WHOLE;
        if enough {
            bucket.left -= WHOLE;
        }
        enough
    }

    /// Forgets who is no client any more.
    pub fn retain(&mut self, is_client: impl Fn(IpAddr) -> bool) {
        self.0.retain(|client, _| is_client(*client));
    }
}

/// Places that clients take and give back.
#[derive(Clone)]
pub struct Places(Rc<RefCell<Taken>>);

struct Taken {
    most: usize,
    most_each: usize,
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
pub struct Place {
    places: Places,
    client: IpAddr,
}

impl Places {
    /// So many at most, and so many for one client.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self(Rc::new(RefCell::new(Taken {
            most,
            most_each,
            all: 0,
            by: HashMap::new(),
        })))
    }

    /// A place for a client. None: it has its share, or there is none.
    pub fn take(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.0.borrow_mut();
        let free = taken.most.saturating_sub(taken.all);
        let own = taken.by.get(&client).copied().unwrap_or(0);
        if free == 0 || own >= taken.most_each || own > free / 8 {
            return None;
        }
        taken.all += 1;
        *taken.by.entry(client).or_insert(0) += 1;
        Some(Place {
            places: self.clone(),
            client,
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.borrow().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.borrow_mut();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by.remove(&self.client);
            }
        }
    }
}

/// How long something may take, for every wait of this program.
pub mod times {
    use super::Duration;

    /// One try of one server.
    pub const TRY: Duration = Duration::from_millis(1500);
    /// One try of one server over TCP.
    pub const TRY_TCP: Duration = Duration::from_secs(3);
    /// All tries for one query: resolvers ask again after 5 s.
    pub const QUERY: Duration = Duration::from_millis(4500);
    /// How long a server that did not answer comes after those that did.
    pub const DISTRUST: Duration = Duration::from_secs(10);
    /// A message on a connection, from the end of the one before to its own end.
    pub const IDLE: Duration = Duration::from_secs(5);
    /// A reply on a connection, until the client has taken it.
    pub const SEND: Duration = Duration::from_secs(5);
    /// What was begun before the end.
    pub const DRAIN: Duration = Duration::from_secs(6);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 90, 0, number])
    }

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let mut at = |client, millis| buckets.take(client, start + Duration::from_millis(millis));
        for _ in 0..BURST {
            assert!(at(client(2), 0));
        }
        assert!(!at(client(2), 0));
        assert!(at(client(3), 0), "another one's is full");
        let gained = (0..RATE).filter(|_| at(client(2), 100)).count();
        assert_eq!(gained, RATE as usize / 10);
        let gained = (0..2 * BURST).filter(|_| at(client(2), 3_600_000)).count();
        assert_eq!(gained, BURST as usize, "it does not get fuller than full");
    }

    #[test]
    fn many_small_gains_are_one_large() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        while buckets.take(client(2), start) {}
        let tenths = (1..=10_000u32).map(|n| start + Duration::from_micros(u64::from(n)));
        let gained = tenths.filter(|now| buckets.take(client(2), *now)).count();
        assert_eq!(gained, RATE as usize / 100);
    }

    #[test]
    fn where_many_flood_the_next_finds_a_place() {
        let places = Places::new(1024, 64);
        let mut held = Vec::new();
        for number in 2..22 {
            while let Some(place) = places.take(client(number)) {
                held.push(place);
            }
        }
        assert!(
            held.iter()
                .filter(|place| place.client == client(2))
                .count()
                == 64
        );
        assert!(places.take(client(201)).is_some());
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.0.borrow().by.is_empty());
    }
}
