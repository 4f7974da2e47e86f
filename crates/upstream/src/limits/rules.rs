//! Switches of single rules, for ablations.

/// Which rules are on. All of them, except in an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// Few calls of unknown outcome at first, more as they are accepted.
    pub slow_start: bool,
    /// The pace moves around the rate to test it.
    pub wave: bool,
    /// An early refusal whose canary passes is ignored.
    pub noise: bool,
    /// The limit's dimension is chosen by steadiness.
    pub dimension: bool,
    /// A limit of calls at a time is told apart.
    pub cap: bool,
    /// The clock of windows.
    pub clock: bool,
    /// Care after a long silence without a clock.
    pub gentle: bool,
    /// `Retry-After` and its kin are looked at.
    pub hints: bool,
    /// Rate-limit headers are looked at.
    pub headers: bool,
    /// A canary counts as passed after a few times as long as refusals take.
    pub silence: bool,
    /// Bursts up to the depth that was seen.
    pub depth: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            slow_start: true,
            wave: true,
            noise: true,
            dimension: true,
            cap: true,
            clock: true,
            gentle: true,
            hints: true,
            headers: true,
            silence: true,
            depth: true,
        }
    }
}

impl Rules {
    /// The names that [`Rules::without`] takes.
    pub const NAMES: [&str; 11] = [
        "slow-start",
        "wave",
        "noise",
        "dimension",
        "cap",
        "clock",
        "gentle",
        "hints",
        "headers",
        "silence",
        "depth",
    ];

    /// All rules but one; `None` when there is no rule of this name.
    pub fn without(name: &str) -> Option<Self> {
        let mut rules = Self::default();
        *match name {
            "slow-start" => &mut rules.slow_start,
            "wave" => &mut rules.wave,
            "noise" => &mut rules.noise,
            "dimension" => &mut rules.dimension,
            "cap" => &mut rules.cap,
            "clock" => &mut rules.clock,
            "gentle" => &mut rules.gentle,
            "hints" => &mut rules.hints,
            "headers" => &mut rules.headers,
            "silence" => &mut rules.silence,
            "depth" => &mut rules.depth,
            _ => return None,
        } = false;
        Some(rules)
    }
}
