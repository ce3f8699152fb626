//! The protocol of lease, finish and rescue as a small model, checked in every order of its steps.
//!
//! One job, two worker sessions, a network that delays statements and loses answers, processes that
//! die, and rescue. A statement takes effect at once when it is delivered: its row locks see to that.
//! What the model leaves out on purpose (a claim without a floor, write-backs without the epoch,
//! heartbeats by the worker's clock, a rescuer that writes what it read before) must be refuted:
//! otherwise the model would prove nothing.

use stateright::{Checker as _, Model, Property};

/// The database's clock stops here: beyond, nothing new happens.
const CLOCK_MAX: u8 = 4;
/// A heartbeat older than this is the sign of a dead session.
const TTL: u8 = 1;
/// Leases after which nobody claims any more.
const EPOCH_MAX: u8 = 2;
const CLAIMS_MAX: u8 = 2;
/// How often one write-back is sent at most.
const SENDS_MAX: u8 = 2;
const WIRE_MAX: usize = 2;
const SESSIONS: usize = 2;
/// How far the second worker's clock is behind the database's.
const SKEW: u8 = 2;

const ONCE: &str = "an effect happens once";
const FINAL: &str = "what is finished stays finished";
const FENCED: &str = "a stale write-back changes nothing";
const LIVING: &str = "who beats in time is not taken for dead";
const HELD: &str = "a lease of a living session is known to it";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// As it is built.
    Protocol,
    /// Write-backs name the session, not the epoch.
    NoEpoch,
    /// Heartbeats carry the time of the worker's host.
    LocalClock,
    /// The rescuer gives back what it read in an earlier transaction.
    RescuerOverwrites,
    /// A claim is valid however late it arrives.
    NoClaimFloor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Available,
    Running { session: usize, claim: u8 },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Claim { session: usize, number: u8 },
    Finish { session: usize, epoch: u8, sends: u8 },
    PutBack { session: usize, epoch: u8, sends: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Session {
    // What the database knows.
    is_ended: bool,
    beat_at: u8,
    /// When a heartbeat last arrived, whatever it said.
    heard_at: u8,
    floor: u8,
    // What its process knows.
    is_alive: bool,
    claims: u8,
    unanswered: Option<u8>,
    /// The epoch under which its handler runs.
    handler: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    clock: u8,
    place: Place,
    epoch: u8,
    sessions: [Session; SESSIONS],
    wire: Vec<Message>,
    /// The rescuer has read that the job is an orphan.
    has_read_orphan: bool,
    // What the properties ask.
    effects: u8,
    was_rescued: bool,
    was_undone: bool,
    stale_changed: bool,
    buried_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Tick,
    Kill(usize),
    Beat(usize),
    SendClaim(usize),
    Void(usize),
    SendFinish(usize),
    SendPutBack(usize),
    Deliver { at: usize, is_answered: bool },
    DeclareDead(usize),
    TakeBack,
    ReadOrphan,
    OverwriteOrphan,
}

struct Lease {
    variant: Variant,
}

impl Lease {
    /// A write-back reaches the database; whether it changed the job.
    fn write_back(&self, state: &mut State, session: usize, epoch: u8, to: Place) {
        let Place::Running { session: holder, .. } = state.place else { return };
        let is_current = holder == session && state.epoch == epoch;
        let is_let_in = is_current || (self.variant == Variant::NoEpoch && holder == session);
        if !is_let_in {
            return;
        }
        state.stale_changed |= !is_current;
        state.place = to;
        // The effect commits with the end of the job.
        state.effects += u8::from(to == Place::Done);
    }

    fn deliver(&self, state: &mut State, at: usize, is_answered: bool) {
        let message = state.wire.remove(at);
        match message {
            Message::Claim { session, number } => {
                let holder = state.sessions[session];
                let is_valid = self.variant == Variant::NoClaimFloor || holder.floor <= number;
                let mut claimed = None;
                if is_valid && !holder.is_ended && state.place == Place::Available {
                    state.epoch += 1;
                    state.place = Place::Running { session, claim: number };
                    claimed = Some(state.epoch);
                }
                if is_answered && holder.is_alive && holder.unanswered == Some(number) {
                    state.sessions[session].unanswered = None;
                    state.sessions[session].handler = claimed;
                }
            }
            Message::Finish { session, epoch, sends } => {
                self.write_back(state, session, epoch, Place::Done);
                let again = Message::Finish { session, epoch, sends: sends + 1 };
                resend(state, session, sends, is_answered, again);
            }
            Message::PutBack { session, epoch, sends } => {
                self.write_back(state, session, epoch, Place::Available);
                let again = Message::PutBack { session, epoch, sends: sends + 1 };
                resend(state, session, sends, is_answered, again);
            }
        }
    }
}

/// Without an answer a living process sends the same again.
fn resend(state: &mut State, session: usize, sends: u8, is_answered: bool, again: Message) {
    if !is_answered && sends < SENDS_MAX && state.sessions[session].is_alive {
        send(state, again);
    }
}

fn send(state: &mut State, message: Message) {
    // In order of their content: the network keeps none.
    state.wire.push(message);
    state.wire.sort_unstable();
}

/// Whether the job is leased to a living session that neither runs it, nor is about to learn of it,
/// nor has anything under way about it.
fn is_stranded(state: &State) -> bool {
    let Place::Running { session, claim } = state.place else { return false };
    let holder = &state.sessions[session];
    let knows = holder.handler == Some(state.epoch) || holder.unanswered == Some(claim);
    let tells = state.wire.iter().any(|message| match message {
        Message::Finish { epoch, .. } | Message::PutBack { epoch, .. } => *epoch == state.epoch,
        Message::Claim { .. } => false,
    });
    holder.is_alive && !holder.is_ended && !knows && !tells
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let session = Session {
            is_ended: false,
            beat_at: SKEW,
            heard_at: SKEW,
            floor: 1,
            is_alive: true,
            claims: 0,
            unanswered: None,
            handler: None,
        };
        vec![State {
            clock: SKEW,
            place: Place::Available,
            epoch: 0,
            sessions: [session; SESSIONS],
            wire: Vec::new(),
            has_read_orphan: false,
            effects: 0,
            was_rescued: false,
            was_undone: false,
            stale_changed: false,
            buried_alive: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < CLOCK_MAX {
            actions.push(Action::Tick);
        }
        for (at, session) in state.sessions.iter().enumerate() {
            if session.is_alive {
                // One of them may die; the other goes on.
                if at == 0 {
                    actions.push(Action::Kill(at));
                }
                if session.heard_at < state.clock || session.is_ended {
                    actions.push(Action::Beat(at));
                }
                let has_room = state.wire.len() < WIRE_MAX;
                let is_free = session.handler.is_none() && session.unanswered.is_none();
                if is_free && has_room && session.claims < CLAIMS_MAX && state.epoch < EPOCH_MAX {
                    actions.push(Action::SendClaim(at));
                }
                if session.unanswered.is_some() {
                    actions.push(Action::Void(at));
                }
                if session.handler.is_some() && has_room {
                    actions.extend([Action::SendFinish(at), Action::SendPutBack(at)]);
                }
            }
            if !session.is_ended && state.clock - session.beat_at > TTL {
                actions.push(Action::DeclareDead(at));
            }
        }
        for at in 0..state.wire.len() {
            actions.push(Action::Deliver { at, is_answered: true });
            actions.push(Action::Deliver { at, is_answered: false });
        }
        let is_orphan = matches!(state.place,
            Place::Running { session, .. } if state.sessions[session].is_ended);
        if self.variant == Variant::RescuerOverwrites {
            if state.has_read_orphan {
                actions.push(Action::OverwriteOrphan);
            } else if is_orphan {
                actions.push(Action::ReadOrphan);
            }
        } else if is_orphan {
            actions.push(Action::TakeBack);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Tick => state.clock += 1,
            Action::Kill(at) => {
                let session = &mut state.sessions[at];
                (session.is_alive, session.handler, session.unanswered) = (false, None, None);
            }
            Action::Beat(at) => {
                let clock = state.clock;
                let session = &mut state.sessions[at];
                if session.is_ended {
                    // It learns that it is over, and stops.
                    (session.is_alive, session.handler, session.unanswered) = (false, None, None);
                } else {
                    let is_behind = self.variant == Variant::LocalClock && at == 1;
                    session.heard_at = clock;
                    session.beat_at = if is_behind { clock - SKEW } else { clock };
                }
            }
            Action::SendClaim(at) => {
                let session = &mut state.sessions[at];
                session.claims += 1;
                let number = session.claims;
                session.unanswered = Some(number);
                send(&mut state, Message::Claim { session: at, number });
            }
            Action::Void(at) => {
                let (place, epoch) = (state.place, state.epoch);
                let session = &mut state.sessions[at];
                let number = session.unanswered.take()?;
                if !session.is_ended {
                    session.floor = number + 1;
                    if place == (Place::Running { session: at, claim: number }) {
                        session.handler = Some(epoch);
                    }
                }
            }
            Action::SendFinish(at) => {
                let epoch = state.sessions[at].handler.take()?;
                send(&mut state, Message::Finish { session: at, epoch, sends: 1 });
            }
            Action::SendPutBack(at) => {
                let epoch = state.sessions[at].handler.take()?;
                send(&mut state, Message::PutBack { session: at, epoch, sends: 1 });
            }
            Action::Deliver { at, is_answered } => self.deliver(&mut state, at, is_answered),
            Action::DeclareDead(at) => {
                state.buried_alive |= state.clock - state.sessions[at].heard_at <= TTL;
                state.sessions[at].is_ended = true;
            }
            Action::TakeBack => {
                (state.place, state.was_rescued) = (Place::Available, true);
            }
            Action::ReadOrphan => state.has_read_orphan = true,
            Action::OverwriteOrphan => {
                state.was_undone |= state.place == Place::Done;
                state.has_read_orphan = false;
                (state.place, state.was_rescued) = (Place::Available, true);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, state: &State| state.effects <= 1),
            Property::always(FINAL, |_, state: &State| !state.was_undone),
            Property::always(FENCED, |_, state: &State| !state.stale_changed),
            Property::always(LIVING, |_, state: &State| !state.buried_alive),
            Property::always(HELD, |_, state: &State| !is_stranded(state)),
            Property::sometimes("a rescued job finishes", |_, state: &State| {
                state.was_rescued && state.place == Place::Done
            }),
            Property::sometimes("a job finishes under a later lease", |_, state: &State| {
                state.epoch >= EPOCH_MAX && state.place == Place::Done
            }),
        ]
    }
}

fn check(variant: Variant) -> impl stateright::Checker<Lease> {
    Lease { variant }.checker().threads(2).spawn_bfs().join()
}

#[test]
fn the_protocol_holds_in_every_order_of_its_steps() {
    let checker = check(Variant::Protocol);
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the model is not too small to mean anything");
}

#[test]
fn without_the_epoch_a_stale_write_back_ends_a_later_lease() {
    assert!(check(Variant::NoEpoch).discovery(FENCED).is_some());
}

#[test]
fn by_the_clocks_of_hosts_a_living_session_is_taken_for_dead() {
    assert!(check(Variant::LocalClock).discovery(LIVING).is_some());
}

#[test]
fn a_rescuer_that_writes_what_it_read_before_undoes_finished_work() {
    let checker = check(Variant::RescuerOverwrites);
    assert!(checker.discovery(FINAL).is_some());
    assert!(checker.discovery(ONCE).is_some());
}

#[test]
fn without_a_floor_a_late_claim_takes_a_job_for_nobody() {
    assert!(check(Variant::NoClaimFloor).discovery(HELD).is_some());
}
