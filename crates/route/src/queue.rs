//! Which of the waiting calls goes next, when only some may go.
//!
//! First the priority, which grows with the time that a call has waited, so that nothing
//! starves. Within a priority the tenant that was served the fewest tokens, within the tenant
//! the run that was, and within the run, or among runs that were served alike, the call that
//! came first. A tenant or run that comes
//! back from idleness begins at the least of those that wait, so that nobody saves up credit
//! (the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models",
//! OSDI 2024: two tenants that both always have calls waiting are never further apart than
//! twice the largest call).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use paceline_core::Instant;

/// Bounds and order of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most calls that wait. Default: 10,000.
    pub len_max: usize,
    /// A call gains a level of priority each time that it has waited so long. Default: 30 s.
    pub ageing: Duration,
    /// How calls of one priority are ordered. Default: fairly.
    pub order: Order,
}

/// How calls of one priority are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By tokens served to tenants and runs.
    #[default]
    Fair,
    /// The run that began first.
    OldestRun,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { len_max: 10_000, ageing: Duration::from_secs(30), order: Order::Fair }
    }
}

/// The levels of priority; the highest number is the most urgent.
pub const LEVELS: u8 = 10;

/// A call that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// 0 to 9.
    pub priority: u8,
    /// A hash of the tenant.
    pub tenant: u64,
    /// A hash of the run.
    pub run: u64,
    /// When the run began, as far as is known.
    pub run_began: Instant,
    /// What the call will take, in tokens.
    pub cost: u64,
    /// When it came.
    pub arrived: Instant,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Calls that wait, in the order in which they may go.
#[derive(Debug)]
pub struct Queue {
    config: QueueConfig,
    next: u64,
    waiting: HashMap<Ticket, Waiting>,
    levels: [Level; LEVELS as usize],
    tenants: Served,
    runs: Served,
}

/// The calls of one priority.
#[derive(Debug, Default)]
struct Level {
    /// By arrival; those that left are skipped.
    arrivals: VecDeque<Ticket>,
    tenants: HashMap<u64, HashMap<u64, VecDeque<Ticket>>>,
    len: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(config: QueueConfig) -> Self {
        Self {
            config,
            next: 0,
            waiting: HashMap::new(),
            levels: Default::default(),
            tenants: Served::default(),
            runs: Served::default(),
        }
    }

    /// How many calls wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a call in; one that was let go and comes back (`again`) before all others of its
    /// run, whatever the bound, and with its cost given back.
    ///
    /// # Errors
    /// [`Full`] at the bound.
    pub fn push(&mut self, call: Waiting, again: bool) -> Result<Ticket, Full> {
        if self.waiting.len() >= self.config.len_max && !again {
            return Err(Full);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        if again {
            self.tenants.refund(call.tenant, call.cost);
            self.runs.refund(call.run, call.cost);
        }
        self.tenants.enter(call.tenant);
        self.runs.enter(call.run);
        let level = &mut self.levels[usize::from(call.priority.min(LEVELS - 1))];
        level.len += 1;
        let runs = level.tenants.entry(call.tenant).or_default();
        let tickets = runs.entry(call.run).or_default();
        if again {
            level.arrivals.push_front(ticket);
            tickets.push_front(ticket);
        } else {
            level.arrivals.push_back(ticket);
            tickets.push_back(ticket);
        }
        self.waiting.insert(ticket, call);
        Ok(ticket)
    }

    /// The call that goes next.
    pub fn peek(&mut self, now: Instant) -> Option<(Ticket, Waiting)> {
        let (level, aged) = self.next_level(now)?;
        let ticket =
            if aged { self.levels[level].arrivals.front().copied()? } else { self.pick(level)? };
        Some((ticket, *self.waiting.get(&ticket)?))
    }

    /// Lets a call go, and charges its cost to its tenant and run.
    pub fn take(&mut self, ticket: Ticket) -> Option<Waiting> {
        let call = self.remove(ticket)?;
        self.charge(call.tenant, call.run, call.cost);
        Some(call)
    }

    /// Takes a call out that no longer waits.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let call = self.waiting.remove(&ticket)?;
        let level = &mut self.levels[usize::from(call.priority.min(LEVELS - 1))];
        level.len -= 1;
        if let Some(runs) = level.tenants.get_mut(&call.tenant) {
            if let Some(tickets) = runs.get_mut(&call.run) {
                tickets.retain(|other| *other != ticket);
                if tickets.is_empty() {
                    runs.remove(&call.run);
                }
            }
            if runs.is_empty() {
                level.tenants.remove(&call.tenant);
            }
        }
        while level.arrivals.front().is_some_and(|front| !self.waiting.contains_key(front)) {
            level.arrivals.pop_front();
        }
        // Those that left from the middle are few, but must not pile up.
        if level.arrivals.len() > 2 * level.len + 64 {
            level.arrivals.retain(|other| self.waiting.contains_key(other));
        }
        self.tenants.leave(call.tenant);
        self.runs.leave(call.run);
        Some(call)
    }

    /// The oldest call of the lowest priority: what a full queue drops first.
    pub fn least(&self) -> Option<(Ticket, Waiting)> {
        let level = self.levels.iter().find(|level| level.len > 0)?;
        let ticket = *level.arrivals.front()?;
        Some((ticket, *self.waiting.get(&ticket)?))
    }

    /// Charges what a call took beyond what it was thought to.
    pub fn charge(&mut self, tenant: u64, run: u64, tokens: u64) {
        self.tenants.charge(tenant, tokens);
        self.runs.charge(run, tokens);
    }

    /// The level to serve, and whether its oldest call goes for its age.
    fn next_level(&self, now: Instant) -> Option<(usize, bool)> {
        let step = self.config.ageing.max(Duration::from_millis(1)).as_nanos();
        let candidates = self.levels.iter().enumerate().filter_map(|(at, level)| {
            let oldest = self.waiting.get(level.arrivals.front()?)?;
            let gained = now.since(oldest.arrived).as_nanos() / step;
            Some((at as u128 + gained, at, gained > 0))
        });
        // Among equals the level that is high by itself.
        let (_, at, aged) = candidates.max_by_key(|(effective, at, _)| (*effective, *at))?;
        Some((at, aged))
    }

    fn pick(&self, level: usize) -> Option<Ticket> {
        let level = &self.levels[level];
        match self.config.order {
            Order::Fair => {
                let tenant = level.tenants.keys().min_by_key(|t| (self.tenants.of(**t), **t))?;
                let runs = level.tenants.get(tenant)?;
                // Calls that name no run are runs of their own, all served alike.
                let fronts = runs.iter().filter_map(|(run, tickets)| {
                    let ticket = *tickets.front()?;
                    Some((self.runs.of(*run), self.waiting.get(&ticket)?.arrived, ticket))
                });
                fronts.min().map(|(_, _, ticket)| ticket)
            }
            Order::OldestRun => {
                let fronts = level.tenants.values().flat_map(HashMap::values);
                let fronts = fronts.filter_map(|tickets| tickets.front());
                fronts.copied().min_by_key(|t| (self.waiting.get(t).map(|w| w.run_began), *t))
            }
        }
    }
}

/// The tokens that each was served, for those that wait and, for a while, those that did.
#[derive(Debug, Default)]
struct Served {
    tokens: HashMap<u64, Account>,
    /// The counters of those that wait, to find the least.
    waiting: BTreeSet<(u64, u64)>,
    /// Those that do not, by when they left, to forget the oldest.
    idle: BTreeMap<u64, u64>,
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    tokens: u64,
    waiting: usize,
    left: u64,
}

/// How many that do not wait are remembered.
const IDLE_MAX: usize = 10_000;

impl Served {
    fn of(&self, who: u64) -> u64 {
        self.tokens.get(&who).map_or(0, |account| account.tokens)
    }

    fn enter(&mut self, who: u64) {
        let least = self.waiting.first().map_or(0, |(tokens, _)| *tokens);
        let account = self.tokens.entry(who).or_default();
        if account.waiting == 0 {
            self.idle.remove(&account.left);
            account.tokens = account.tokens.max(least);
            self.waiting.insert((account.tokens, who));
        }
        account.waiting += 1;
    }

    fn leave(&mut self, who: u64) {
        let Some(account) = self.tokens.get_mut(&who) else { return };
        account.waiting -= 1;
        if account.waiting > 0 {
            return;
        }
        self.waiting.remove(&(account.tokens, who));
        self.clock += 1;
        account.left = self.clock;
        self.idle.insert(self.clock, who);
        if self.idle.len() > IDLE_MAX
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.tokens.remove(&oldest);
        }
    }

    fn charge(&mut self, who: u64, tokens: u64) {
        self.change(who, |before| before + tokens);
    }

    fn refund(&mut self, who: u64, tokens: u64) {
        self.change(who, |before| before.saturating_sub(tokens));
    }

    fn change(&mut self, who: u64, change: impl FnOnce(u64) -> u64) {
        let Some(account) = self.tokens.get_mut(&who) else { return };
        let before = account.tokens;
        account.tokens = change(before);
        if account.waiting > 0 {
            self.waiting.remove(&(before, who));
            self.waiting.insert((account.tokens, who));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    fn call(priority: u8, tenant: u64, run: u64, cost: u64) -> Waiting {
        let (run_began, arrived) = (at(run), at(0));
        Waiting { priority, tenant, run, run_began, cost, arrived }
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| {
            let (ticket, _) = queue.peek(now)?;
            queue.take(ticket).map(|call| (call.tenant, call.run))
        })
        .collect()
    }

    #[test]
    fn urgent_calls_go_first_and_waiting_makes_urgent() {
        let mut queue = Queue::new(QueueConfig::default());
        queue.push(call(2, 1, 1, 1), false).unwrap();
        queue.push(call(9, 2, 2, 1), false).unwrap();
        queue.push(Waiting { arrived: at(200), ..call(9, 3, 3, 1) }, false).unwrap();
        assert_eq!(queue.peek(at(0)).unwrap().1.tenant, 2);
        // After 200 s the call of level 2 has gained 6 levels, that of level 9 as well.
        assert_eq!(drain(&mut queue, at(200)), [(2, 2), (3, 3), (1, 1)]);
        queue.push(call(0, 1, 1, 1), false).unwrap();
        queue.push(Waiting { arrived: at(299), ..call(9, 3, 3, 1) }, false).unwrap();
        assert_eq!(drain(&mut queue, at(300)), [(1, 1), (3, 3)], "300 s are ten levels");
    }

    #[test]
    fn tenants_and_runs_share_by_tokens() {
        let mut queue = Queue::new(QueueConfig::default());
        for _ in 0..4 {
            queue.push(call(5, 1, 10, 100), false).unwrap();
            queue.push(call(5, 1, 11, 100), false).unwrap();
            queue.push(call(5, 2, 20, 400), false).unwrap();
        }
        let order = drain(&mut queue, at(0));
        let runs: Vec<u64> = order.iter().map(|(_, run)| *run).collect();
        assert_eq!(runs, [10, 20, 11, 10, 11, 10, 20, 11, 10, 11, 20, 20]);
        // Who was idle has saved up nothing: the counters are lifted to the least.
        queue.push(call(5, 2, 20, 400), false).unwrap();
        queue.push(call(5, 3, 30, 1), false).unwrap();
        assert_eq!(queue.tenants.of(3), queue.tenants.of(2));
    }

    #[test]
    fn runs_that_were_served_alike_go_by_arrival() {
        let mut queue = Queue::new(QueueConfig::default());
        // Calls without a name are runs of their own, with hashes in any order.
        for (second, run) in [(0, 40), (1, 10), (2, 30), (3, 20)] {
            queue.push(Waiting { arrived: at(second), ..call(5, 1, run, 100) }, false).unwrap();
        }
        let (ticket, first) = queue.peek(at(4)).unwrap();
        queue.take(ticket).unwrap();
        queue.push(Waiting { arrived: at(4), ..call(5, 1, 5, 100) }, false).unwrap();
        // It is refused, and has had nothing for what it was charged.
        queue.push(first, true).unwrap();
        let runs: Vec<u64> = drain(&mut queue, at(5)).into_iter().map(|(_, run)| run).collect();
        assert_eq!(runs, [40, 10, 30, 20, 5]);
    }

    #[test]
    fn the_oldest_run_may_go_first_instead() {
        let config = QueueConfig { order: Order::OldestRun, ..QueueConfig::default() };
        let mut queue = Queue::new(config);
        for run in [7, 3, 9, 3] {
            queue.push(call(5, run, run, 1), false).unwrap();
        }
        let order = drain(&mut queue, at(0));
        assert_eq!(order.iter().map(|(_, run)| *run).collect::<Vec<_>>(), [3, 3, 7, 9]);
    }

    #[test]
    fn it_is_bounded_and_drops_the_oldest_of_the_lowest() {
        let mut queue = Queue::new(QueueConfig { len_max: 3, ..QueueConfig::default() });
        let tickets: Vec<_> =
            [5, 3, 3].map(|priority| queue.push(call(priority, 1, 1, 1), false).unwrap()).into();
        assert_eq!(queue.push(call(9, 1, 1, 1), false), Err(Full));
        assert_eq!(queue.least().unwrap().0, tickets[1]);
        assert!(queue.remove(tickets[1]).is_some() && queue.remove(tickets[1]).is_none());
        assert_eq!(queue.least().unwrap().0, tickets[2]);
        assert_eq!(queue.len(), 2);
    }

    proptest! {
        /// Two tenants that always have calls waiting are never further apart in what they
        /// were served than twice the largest call (Sheng et al. 2024, theorem 4.3, with the
        /// largest call as the largest unit of service).
        #[test]
        fn backlogged_tenants_stay_together(costs in proptest::collection::vec((1u64..500, 1u64..500), 50..200)) {
            let mut queue = Queue::new(QueueConfig::default());
            let most = costs.iter().map(|(a, b)| *a.max(b)).max().unwrap();
            for (a, b) in &costs {
                queue.push(call(5, 1, 1, *a), false).unwrap();
                queue.push(call(5, 2, 2, *b), false).unwrap();
            }
            let (mut served, mut left) = ([0u64; 2], [costs.len(); 2]);
            while left[0] > 0 && left[1] > 0 {
                let (ticket, _) = queue.peek(at(0)).unwrap();
                let call = queue.take(ticket).unwrap();
                served[call.tenant as usize - 1] += call.cost;
                left[call.tenant as usize - 1] -= 1;
                prop_assert!(served[0].abs_diff(served[1]) <= 2 * most, "{served:?} {most}");
            }
        }

        /// Whatever comes and goes, nothing is lost, and nothing is given twice.
        #[test]
        fn every_call_goes_once(moves in proptest::collection::vec((0u8..12, 0u64..4, 0u64..6, 0u8..3), 1..300)) {
            let mut queue = Queue::new(QueueConfig { len_max: 50, ..QueueConfig::default() });
            let mut waiting = std::collections::BTreeSet::new();
            for (n, (priority, tenant, run, what)) in moves.into_iter().enumerate() {
                let now = at(n as u64 * 7);
                let arrived = Waiting { arrived: now, ..call(priority, tenant, run, 10) };
                match what {
                    0 | 1 => match queue.push(arrived, false) {
                        Ok(ticket) => prop_assert!(waiting.insert(ticket)),
                        Err(Full) => prop_assert_eq!(waiting.len(), 50),
                    },
                    _ => {
                        let taken = queue.peek(now).map(|(ticket, _)| ticket);
                        prop_assert_eq!(taken.is_some(), !waiting.is_empty());
                        if let Some(ticket) = taken {
                            prop_assert!(waiting.remove(&ticket) && queue.take(ticket).is_some());
                        }
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
            }
        }
    }
}
