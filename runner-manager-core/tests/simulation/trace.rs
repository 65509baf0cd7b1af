//! What happened, in order: a hash of it always, and the lines only where somebody is to read them.
//!
//! A run is repeated exactly by its seed, so the lines of one that failed are had by running it again.

use jiff::Timestamp;

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// A replica, by its number.
    Replica(usize),
    /// Everything outside: GitHub, the cloud, machines, operators.
    World,
}

#[derive(Debug)]
pub(crate) struct Trace {
    began: Timestamp,
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(began: Timestamp, with_lines: bool) -> Self {
        Self { began, hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: with_lines.then(Vec::new) }
    }

    /// Notes something. The detail is asked for only where lines are kept.
    pub(crate) fn note(
        &mut self,
        now: Timestamp,
        who: Who,
        what: &str,
        outcome: &str,
        detail: impl FnOnce() -> String,
    ) {
        self.events += 1;
        let replica = match who {
            Who::Replica(replica) => replica as u64,
            Who::World => u64::MAX,
        };
        let time = u64::try_from(now.as_microsecond()).unwrap_or_default();
        for byte in time.to_le_bytes().into_iter().chain(replica.to_le_bytes()) {
            self.mix(byte);
        }
        for byte in what.bytes().chain(outcome.bytes()) {
            self.mix(byte);
        }
        if let Some(lines) = &mut self.lines {
            let time = now.duration_since(self.began);
            let (seconds, millis) = (time.as_secs(), time.subsec_millis());
            let (minutes, seconds) = (seconds / 60, seconds % 60);
            let who = match who {
                Who::Replica(replica) => format!("replica {replica}"),
                Who::World => "world".to_owned(),
            };
            lines.push(format!(
                "{minutes:>3}:{seconds:02}.{millis:03} {who:<9} {what:<24} {outcome:<14} {}",
                detail()
            ));
        }
    }

    fn mix(&mut self, byte: u8) {
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    /// What tells two runs apart.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
