//! Places for connections: so many at once, not all for one address, and some kept for health.
//!
//! Whoever finds no place any more may still ask whether this process lives and is ready, and read
//! its figures: an API that is overrun must not look dead to those who watch it, and would be
//! killed for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places that are kept for health.
const KEPT_MAX: usize = 64;
/// Of those, how many may be had by clients that have other places too: whoever has none, as those
/// who watch have, finds one although clients overflow.
const KEPT_OVERFLOW_MAX: usize = KEPT_MAX / 2;
/// Of those, how many one client may have: none has all.
const KEPT_PER_ADDRESS_MAX: usize = 8;

/// Bits of an IPv6 address that name a client's network; the others it chooses as it likes.
const NETWORK_BITS: u32 = 64;

/// The client that an address counts for: itself, or its network where one client has as many
/// addresses as it likes.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    // An IPv4 client is the same one on a socket that takes both.
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << (u128::BITS - NETWORK_BITS));
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Who has which place. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    whole: Count,
    kept: Count,
}

/// Connections, and how many of them each address has.
#[derive(Debug, Default)]
struct Count {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Count {
    fn take(&mut self, address: IpAddr, max: usize, per_address_max: usize) -> bool {
        let own = self.of.get(&address).copied().unwrap_or(0);
        if self.all >= max || own >= per_address_max {
            return false;
        }
        self.all += 1;
        self.of.insert(address, own + 1);
        true
    }

    fn give_back(&mut self, address: IpAddr) {
        self.all = self.all.saturating_sub(1);
        match self.of.get_mut(&address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                self.of.remove(&address);
            }
        }
    }
}

/// What a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Anything.
    Anything,
    /// Whether this process lives and is ready, and its figures.
    Health,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    address: IpAddr,
    /// What its connection may ask for.
    pub(crate) asks: Asks,
}

impl Places {
    /// A place for a connection from `address`: one of `max`, of which an address may have
    /// `per_address_max`; else one that is kept for health. `None` when there is none of either.
    pub(crate) fn take(
        &self,
        address: IpAddr,
        max: usize,
        per_address_max: usize,
    ) -> Option<Place> {
        let address = client_of(address);
        let asks = {
            let mut taken = self.taken();
            let overflows = taken.whole.of.contains_key(&address);
            let kept_max = if overflows { KEPT_OVERFLOW_MAX } else { KEPT_MAX };
            if taken.whole.take(address, max, per_address_max) {
                Asks::Anything
            } else if taken.kept.take(address, kept_max, KEPT_PER_ADDRESS_MAX) {
                Asks::Health
            } else {
                return None;
            }
        };
        Some(Place { places: self.clone(), address, asks })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match self.asks {
            Asks::Anything => taken.whole.give_back(self.address),
            Asks::Health => taken.kept.give_back(self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn no_address_takes_every_place_and_none_those_for_health() {
        let places = Places::default();
        let take = |last: u8| places.take(address(last), 10, 6);
        let first: Vec<_> = (0..6).map(|_| take(1).expect("a place")).collect();
        assert!(first.iter().all(|place| place.asks == Asks::Anything));
        let kept: Vec<_> = (0..KEPT_PER_ADDRESS_MAX).map(|_| take(1).expect("a place")).collect();
        assert!(kept.iter().all(|place| place.asks == Asks::Health));
        assert!(take(1).is_none());
        let others: Vec<_> = (0..4).map(|_| take(2).expect("a place")).collect();
        assert!(others.iter().all(|place| place.asks == Asks::Anything));
        assert_eq!(take(3).expect("a place").asks, Asks::Health, "all are taken");
        drop(first);
        assert_eq!(take(1).expect("a place").asks, Asks::Anything);
    }

    #[test]
    fn clients_that_overflow_leave_half_of_the_places_for_health_to_others() {
        let places = Places::default();
        let take = |last: u8| places.take(address(last), 10, 1);
        let mut held = Vec::new();
        for last in 1..=10 {
            held.extend((0..20).filter_map(|_| take(last)));
        }
        let kept = held.iter().filter(|place| place.asks == Asks::Health).count();
        assert_eq!(kept, KEPT_OVERFLOW_MAX);
        assert_eq!(take(11).expect("who watches has a place").asks, Asks::Health);
    }

    #[test]
    fn the_addresses_of_one_network_are_one_client() {
        let client = |text: &str| client_of(text.parse().expect("an address"));
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let places = Places::default();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        let held = [places.take(address(1), 2, 2), places.take(mapped, 2, 2)];
        assert_eq!(places.taken().whole.of.get(&address(1)), Some(&2), "the same client");
        drop(held);
        let taken = places.taken();
        assert!(taken.whole.all == 0 && taken.whole.of.is_empty());
        assert!(taken.kept.all == 0 && taken.kept.of.is_empty());
    }
}
