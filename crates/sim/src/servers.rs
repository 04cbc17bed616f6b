//! The NATS servers of a run, where there are several: which of them leads which stream, which one is down, and which one is
//! cut off from the others together with whoever is connected to it.
//!
//! | what happens | for how long | from where |
//! |---|---|---|
//! | a stream's leader is gone: the others elect, and nobody answers for that stream meanwhile | 4 to 9 s | `server/raft.go`; measured 4.3 to 7.4 s |
//! | each stream has a leader of its own, so that one answers while another does not | | streams are Raft groups |
//! | a leader that is cut off calls itself so: it answers for the log from what it knew, and commits nothing | 10 s | `server/raft.go`, lost quorum |
//! | whoever is connected to it keeps its connection, and hears only who is connected there, too | until the cut is over | the client sees a server that answers its pings |
//! | a connection is made to any server that is up, one that is cut off among them | | clients have a list of servers |
//!
//! What a majority has stored is never lost by this: that a server with an unsynced end wins is [`crate::fault::Fault::TailLost`].

use crate::time::{Micros, SECOND};

/// For how long a leader that is cut off from the others calls itself so.
pub const LEADS_ALONE: Micros = 10 * SECOND;

/// What is led by one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The log.
    Log,
    /// The lease, and who is there.
    Lease,
    /// The bucket of snapshots.
    Snapshots,
    /// The event stream.
    Events,
}

impl Stream {
    const ALL: [Self; 4] = [Self::Log, Self::Lease, Self::Snapshots, Self::Events];
}

/// How a question to a stream is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answering {
    /// From all that was committed.
    Truly,
    /// From what a server knew when it was cut off: the log up to this sequence. It commits nothing.
    Stale(u64),
    /// Not at all.
    Never,
}

/// One that is cut off.
#[derive(Debug, Clone)]
struct CutOff {
    server: usize,
    since: Micros,
    /// What it leads, as far as it knows.
    led: Vec<Stream>,
    /// Where the log ended then.
    log_end: u64,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Servers {
    count: usize,
    /// Who leads each stream.
    leaders: [usize; Stream::ALL.len()],
    /// Until when one is elected for each.
    elects_until: [Micros; Stream::ALL.len()],
    down: Option<usize>,
    cut_off: Option<CutOff>,
}

impl Servers {
    /// So many, all of them up.
    pub fn new(count: usize, rng: &mut fastrand::Rng) -> Self {
        Self {
            count,
            leaders: std::array::from_fn(|_| rng.usize(0..count)),
            elects_until: [0; Stream::ALL.len()],
            down: None,
            cut_off: None,
        }
    }

    /// A server that somebody connects to.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> usize {
        let picked = rng.usize(0..self.count);
        if self.down == Some(picked) { (picked + 1) % self.count } else { picked }
    }

    /// Whether two that are connected to these servers hear each other. Nothing is connected to one of the majority.
    pub fn connect(&self, one: Option<usize>, other: Option<usize>) -> bool {
        self.is_cut_off(one) == self.is_cut_off(other)
    }

    fn is_cut_off(&self, server: Option<usize>) -> bool {
        server.is_some() && self.cut_off.as_ref().map(|cut_off| cut_off.server) == server
    }

    /// How a question of somebody who is connected to this server is answered.
    pub fn answering(&self, server: usize, stream: Stream, now: Micros) -> Answering {
        if let Some(cut_off) = self.cut_off.as_ref().filter(|cut_off| cut_off.server == server) {
            let leads = cut_off.led.contains(&stream) && now < cut_off.since + LEADS_ALONE;
            let is_stale = leads && stream == Stream::Log;
            return if is_stale { Answering::Stale(cut_off.log_end) } else { Answering::Never };
        }
        let elects = now < self.elects_until[stream as usize];
        if elects || !self.has_majority() { Answering::Never } else { Answering::Truly }
    }

    /// Whether whoever is connected to this server has everything.
    pub fn serve(&self, server: usize, now: Micros) -> bool {
        let truly = |stream| self.answering(server, stream, now) == Answering::Truly;
        Stream::ALL.into_iter().all(truly)
    }

    fn has_majority(&self) -> bool {
        let away = usize::from(self.down.is_some()) + usize::from(self.cut_off.is_some());
        (self.count - away) * 2 > self.count
    }

    /// A server dies. Gives which one; nothing, where one is down or there is only one.
    pub fn kill(&mut self, now: Micros, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.count == 1 || self.down.is_some() {
            return None;
        }
        let others = (0..self.count).filter(|server| !self.is_cut_off(Some(*server)));
        let server = rng.choice(others.collect::<Vec<_>>())?;
        self.down = Some(server);
        self.elect(now, rng);
        Some(server)
    }

    /// It is back.
    pub fn restart(&mut self, now: Micros, rng: &mut fastrand::Rng) {
        self.down = None;
        self.elect(now, rng);
    }

    /// A server is cut off from the others. Nothing happens where one is, or there is only one.
    pub fn cut_off(&mut self, log_end: u64, now: Micros, rng: &mut fastrand::Rng) {
        if self.count == 1 || self.cut_off.is_some() {
            return;
        }
        let others = (0..self.count).filter(|server| self.down != Some(*server));
        let Some(server) = rng.choice(others.collect::<Vec<_>>()) else { return };
        self.cut_off_one(server, log_end, now, rng);
    }

    fn cut_off_one(&mut self, server: usize, log_end: u64, now: Micros, rng: &mut fastrand::Rng) {
        let led = Stream::ALL.into_iter().filter(|stream| self.leaders[*stream as usize] == server);
        let led = led.filter(|stream| now >= self.elects_until[*stream as usize]).collect();
        self.cut_off = Some(CutOff { server, since: now, led, log_end });
        self.elect(now, rng);
    }

    /// All hear each other.
    pub fn join(&mut self, now: Micros, rng: &mut fastrand::Rng) {
        self.cut_off = None;
        self.elect(now, rng);
    }

    /// A stream's leader gives that up to another one.
    pub fn move_leader(&mut self, now: Micros, rng: &mut fastrand::Rng) {
        if self.count > 1 {
            let stream = rng.usize(0..Stream::ALL.len());
            self.elects_until[stream] = now + election(rng);
        }
    }

    /// A leader for each stream whose leader is not among the majority. Where there was none, all are elected.
    fn elect(&mut self, now: Micros, rng: &mut fastrand::Rng) {
        let present =
            |server: &usize| self.down != Some(*server) && !self.is_cut_off(Some(*server));
        let present: Vec<_> = (0..self.count).filter(present).collect();
        for stream in Stream::ALL {
            let leader = self.leaders[stream as usize];
            if self.has_majority() && present.contains(&leader) {
                continue;
            }
            self.leaders[stream as usize] = rng.choice(present.iter().copied()).unwrap_or(leader);
            self.elects_until[stream as usize] = now + election(rng);
        }
    }

    /// Everything is as it should be.
    pub fn calm(&mut self) {
        (self.down, self.cut_off) = (None, None);
        self.elects_until = [0; Stream::ALL.len()];
    }
}

fn election(rng: &mut fastrand::Rng) -> Micros {
    rng.u64(4 * SECOND..9 * SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three servers, the first of which leads all streams but one and is cut off after a second, when the log ends at 7.
    fn cut_off(rng: &mut fastrand::Rng) -> Servers {
        let mut servers = Servers::new(3, rng);
        servers.leaders = [0, 0, 0, 1];
        servers.cut_off_one(0, 7, SECOND, rng);
        servers
    }

    #[test]
    fn one_that_is_cut_off_answers_for_the_log_from_what_it_knew_and_the_others_elect() {
        let servers = cut_off(&mut fastrand::Rng::with_seed(1));
        let (alone, other) = (0, 1);
        let of = |server, stream, at| servers.answering(server, stream, at * SECOND);
        assert_eq!(of(alone, Stream::Log, 10), Answering::Stale(7));
        assert_eq!(of(alone, Stream::Log, 11), Answering::Never);
        assert_eq!(of(alone, Stream::Lease, 2), Answering::Never);
        assert_eq!(of(other, Stream::Log, 4), Answering::Never, "they elect");
        assert_eq!(of(other, Stream::Log, 10), Answering::Truly);
        assert_eq!(of(other, Stream::Events, 1), Answering::Truly, "its leader is among them");
        assert!(!servers.connect(Some(alone), Some(other)) && !servers.connect(Some(alone), None));
        assert!(servers.connect(Some(other), None));
    }

    #[test]
    fn two_of_three_that_are_away_leave_no_majority() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut servers = cut_off(&mut rng);
        let down = servers.kill(SECOND, &mut rng).unwrap();
        assert_ne!(down, 0);
        let other = 3 - down;
        assert_eq!(servers.answering(other, Stream::Events, 99 * SECOND), Answering::Never);
        servers.restart(100 * SECOND, &mut rng);
        assert!(servers.serve(other, 110 * SECOND));
        assert_eq!(Servers::new(1, &mut rng).kill(0, &mut rng), None, "the only one");
    }
}
