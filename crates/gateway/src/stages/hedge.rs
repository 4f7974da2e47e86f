//! A call whose answer is late is sent a second time, to another deployment; the first
//! answer counts, and the other attempt is cancelled ("hedged requests": Dean and Barroso,
//! "The Tail at Scale", CACM 2013). What that may cost is bounded.

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use paceline_core::{Call, Instant, Reply, Result};
use paceline_route::Lease;

use crate::stages::attempt::{Errand, Failed};
use crate::stages::line::{Pass, Turn, cost};
use crate::stages::send::Send;

/// Whether and when calls are hedged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeConfig {
    /// Whether they are. Default: no.
    pub enabled: bool,
    /// The share of a deployment's answers that begin sooner than a call that is late.
    /// Default: 0.95.
    pub quantile: f64,
    /// What hedges may take, as a share of the tokens of all calls. Default: 0.02.
    pub spend_share_max: f64,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { enabled: false, quantile: 0.95, spend_share_max: 0.02 }
    }
}

/// What may be spent on hedges, shared by all cores.
#[derive(Debug)]
pub struct Hedges {
    config: HedgeConfig,
    /// Thousandths of a token.
    budget: AtomicI64,
}

/// What can be saved up: so many hedges of the call at hand.
const SAVED_MAX: i64 = 10;

impl Hedges {
    /// A budget with nothing in it yet.
    pub fn new(config: HedgeConfig) -> Self {
        Self { config, budget: AtomicI64::new(0) }
    }

    /// A call is sent: its share goes into the budget.
    fn earn(&self, cost: i64) {
        let share = (cost as f64 * self.config.spend_share_max) as i64;
        let more = |have: i64| Some(have.max((have + share).min(cost.saturating_mul(SAVED_MAX))));
        let _ = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Pays for a hedge, where there is enough.
    fn take(&self, cost: i64) -> bool {
        let left = |have: i64| (have >= cost).then_some(have - cost);
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn give_back(&self, cost: i64) {
        self.budget.fetch_add(cost, Ordering::Relaxed);
    }

    /// When a call is late; `None` where it is not hedged.
    fn late_at(&self, call: &Call, lease: &Lease) -> Option<Instant> {
        if !self.config.enabled {
            return None;
        }
        self.earn(thousandths(call));
        let times = lease.target().times(call.request.fields.stream);
        Some(lease.taken().after(times.quantile(self.config.quantile)?))
    }
}

fn thousandths(call: &Call) -> i64 {
    let cost = cost(call);
    (i64::from(cost.prompt) + i64::from(cost.output_max)) * 1000
}

impl Send {
    /// An attempt, and a second one where the first is late. Adds the second one's place to
    /// `tried`.
    pub(crate) async fn hedged(
        &self,
        errand: Errand<'_>,
        (lease, pass): (Lease, Option<Pass>),
        tried: &mut u64,
    ) -> Result<Reply, Failed> {
        match self.shared.hedges.late_at(errand.call, &lease) {
            Some(late) if !errand.route.all_tried(*tried) => {
                Box::pin(self.race(errand, (lease, pass), tried, late)).await
            }
            _ => self.attempt(errand, (lease, pass)).await,
        }
    }

    async fn race(
        &self,
        errand: Errand<'_>,
        boarded: (Lease, Option<Pass>),
        tried: &mut u64,
        late: Instant,
    ) -> Result<Reply, Failed> {
        let Errand { call, route, .. } = errand;
        let (hedges, metrics) = (&self.shared.hedges, &self.shared.metrics);
        let mut first = pin!(self.attempt(errand, boarded));
        if let Some(sent) = self.shared.clock.timeout_at(late, &mut first).await {
            return sent;
        }
        let price = thousandths(call);
        if !hedges.take(price) {
            return first.await;
        }
        let way = route.way(call.request.endpoint);
        let Ok(Some(boarded)) = route.line.board(call, way, *tried, Turn::Elsewhere).await else {
            hedges.give_back(price);
            return first.await;
        };
        *tried |= 1 << boarded.0.index();
        metrics.hedges.inc();
        let mut second = pin!(self.attempt(errand, boarded));
        let (sent, by_second) = std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = first.as_mut().poll(cx) {
                return Poll::Ready((sent, false));
            }
            second.as_mut().poll(cx).map(|sent| (sent, true))
        })
        .await;
        let (sent, by_second) = match (sent, by_second) {
            // One has failed: the other one counts.
            (Err(_), true) => (first.await, false),
            (Err(_), false) => (second.await, true),
            answered => answered,
        };
        if by_second && sent.is_ok() {
            metrics.hedges_won.inc();
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_cost_no_more_than_their_share() {
        let hedges = Hedges::new(HedgeConfig { enabled: true, ..HedgeConfig::default() });
        assert!(!hedges.take(1000), "nothing is lent");
        let mut hedged = 0;
        for _ in 0..10_000 {
            hedges.earn(1_000_000);
            hedged += u32::from(hedges.take(1_000_000));
        }
        assert!((199..=200).contains(&hedged), "{hedged}");
        (0..10_000).for_each(|_| hedges.earn(1_000_000));
        let saved = (0..100).filter(|_| hedges.take(1_000_000)).count();
        assert_eq!(saved, 10, "little is saved up");
    }
}
