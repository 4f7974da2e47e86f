use super::*;
use std::fmt::Write;

const LIMITS: Limits = Limits { seqs: 8, step_tokens: 64, blocks: 64, prefix_cache: true };

/// Hashes of a sequence whose blocks before `own` are shared by all with that `family`.
fn hashes(family: u64, shared: usize, own: u64, blocks: usize) -> Box<[u64]> {
    (0..blocks)
        .map(|i| if i < shared { family << 32 | i as u64 } else { own << 32 | i as u64 | 1 << 31 })
        .collect()
}

struct Bench {
    scheduler: Scheduler,
    ids: Vec<SeqId>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits), ids: Vec::new() }
    }

    fn add(&mut self, prompt: u32, output: u32, hashes: Box<[u64]>) {
        let tag = self.ids.len();
        let id = self.scheduler.add(tag, Work { prompt, output, hashes });
        self.ids.push(id);
    }

    /// Plans a step, writes it with the whole state while it runs, and ends it.
    /// `A+16` computes 16 tokens of A; `A 48/3` has 48 tokens in 3 blocks before that.
    fn step(&mut self) -> String {
        let name = |tag: usize| char::from(b'A' + tag as u8);
        let Some(load) = self.scheduler.plan(|_| {}) else { return "idle".to_owned() };
        let s = &self.scheduler;
        let mut text = String::new();
        for &id in &s.running {
            let q = &s.seqs[id];
            write!(text, "{} {}+{}/{} ", name(q.tag), q.computed, q.scheduled, q.blocks.len())
                .unwrap();
        }
        write!(text, "| wait ").unwrap();
        for &id in &s.waiting {
            write!(text, "{}", name(s.seqs[id].tag)).unwrap();
        }
        write!(text, "| free {} | load {} {}", s.pool.free(), load.tokens, load.decodes).unwrap();
        write!(text, " {} {} | out ", load.context, load.prefill).unwrap();
        self.scheduler.complete(|emitted| {
            let end = if emitted.last { "." } else { "" };
            write!(text, "{}{end}", name(emitted.tag)).unwrap();
        });
        text
    }

    fn check(&mut self, expected: &[&str]) {
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(self.step(), *expected, "step {i}");
        }
    }
}

#[test]
fn chunks_share_the_budget_with_decodes() {
    let mut bench = Bench::new(LIMITS);
    bench.add(20, 3, Box::default());
    bench.add(100, 2, Box::default());
    bench.check(&[
        // A whole, then 44 tokens of B: 44 * 44 + 20 * 20 = 2336.
        "A 0+20/2 B 0+44/3 | wait | free 59 | load 64 0 0 2336 | out A",
        // A decodes at context 21; B goes on: 56 * (88 + 56) = 8064.
        "A 20+1/2 B 44+56/7 | wait | free 55 | load 57 1 21 8064 | out AB",
        "A 21+1/2 B 100+1/7 | wait | free 55 | load 2 2 123 0 | out A.B.",
        "idle",
    ]);
    assert_eq!(bench.scheduler.pool.free(), 64);
    assert!(bench.scheduler.seqs.is_empty());
}

#[test]
fn at_most_so_many_run() {
    let mut bench = Bench::new(Limits { seqs: 2, ..LIMITS });
    for output in [2, 1, 1, 1] {
        bench.add(10, output, Box::default());
    }
    bench.check(&[
        "A 0+10/1 B 0+10/1 | wait CD| free 62 | load 20 0 0 200 | out AB.",
        "A 10+1/1 C 0+10/1 | wait D| free 62 | load 11 1 11 100 | out A.C.",
        "D 0+10/1 | wait | free 63 | load 10 0 0 100 | out D.",
        "idle",
    ]);
}

#[test]
fn the_token_budget_defers_admission() {
    let mut bench = Bench::new(LIMITS);
    bench.add(64, 1, Box::default());
    bench.add(5, 1, Box::default());
    bench.check(&[
        "A 0+64/4 | wait B| free 60 | load 64 0 0 4096 | out A.",
        "B 0+5/1 | wait | free 63 | load 5 0 0 25 | out B.",
    ]);
}

#[test]
fn an_equal_prefix_is_computed_once() {
    let mut bench = Bench::new(LIMITS);
    bench.add(40, 1, hashes(1, 2, 100, 2));
    bench.add(40, 1, hashes(1, 2, 101, 2));
    // Both start in one step: B takes A's two full blocks and computes 8 tokens:
    // 40 * 40 + 8 * (64 + 8) = 2176.
    bench.check(&["A 0+40/3 B 32+8/3 | wait | free 60 | load 48 0 0 2176 | out A.B."]);
    // Also after both have ended. Of a prompt that is all cached the last block is computed.
    bench.add(33, 1, hashes(1, 2, 102, 2));
    bench.add(32, 1, hashes(1, 2, 103, 2));
    bench.check(&["C 32+1/3 D 16+16/2 | wait | free 60 | load 17 1 33 768 | out C.D."]);
    let totals = bench.scheduler.totals();
    assert_eq!((totals.prefix_queries, totals.prefix_hits), (145, 32 + 32 + 16));
}

#[test]
fn generated_blocks_are_cached_too() {
    let mut bench = Bench::new(LIMITS);
    bench.add(31, 3, hashes(1, 2, 0, 2));
    bench.check(&[
        "A 0+31/2 | wait | free 62 | load 31 0 0 961 | out A",
        "A 31+1/2 | wait | free 62 | load 1 1 32 0 | out A",
        "A 32+1/3 | wait | free 61 | load 1 1 33 0 | out A.",
    ]);
    bench.add(40, 1, hashes(1, 2, 0, 2));
    bench.check(&["B 32+8/3 | wait | free 61 | load 8 0 0 576 | out B."]);
}

#[test]
fn the_last_one_is_preempted_and_recomputed() {
    // Four blocks: A and B hold two each when A needs a third.
    let mut bench = Bench::new(Limits { blocks: 4, ..LIMITS });
    bench.add(31, 4, hashes(1, 0, 1, 3));
    bench.add(30, 4, hashes(1, 0, 2, 3));
    bench.check(&[
        "A 0+31/2 B 0+30/2 | wait | free 0 | load 61 0 0 1861 | out AB",
        "A 31+1/2 B 30+1/2 | wait | free 0 | load 2 2 63 0 | out AB",
        // A needs a block: B goes to the queue and, in this step, nobody is admitted.
        "A 32+1/3 | wait B| free 1 | load 1 1 33 0 | out A",
        // B now has 32 tokens and needs 2 blocks; its first one is cached and free.
        "A 33+1/3 | wait B| free 1 | load 1 1 34 0 | out A.",
        "B 16+16/2 | wait | free 2 | load 16 0 0 768 | out B",
        "B 32+1/3 | wait | free 1 | load 1 1 33 0 | out B.",
        "idle",
    ]);
    assert_eq!(bench.scheduler.totals().preemptions, 1);
    assert_eq!(bench.scheduler.pool.free(), 4);
}

#[test]
fn the_head_of_the_queue_waits_for_blocks() {
    let mut bench = Bench::new(Limits { blocks: 6, ..LIMITS });
    bench.add(60, 3, Box::default());
    bench.add(40, 1, Box::default());
    bench.add(5, 1, Box::default());
    bench.check(&[
        // Four blocks of six are taken; B needs three, and C may not overtake it.
        "A 0+60/4 | wait BC| free 2 | load 60 0 0 3600 | out A",
        "A 60+1/4 | wait BC| free 2 | load 1 1 61 0 | out A",
        "A 61+1/4 | wait BC| free 2 | load 1 1 62 0 | out A.",
        "B 0+40/3 C 0+5/1 | wait | free 2 | load 45 0 0 1625 | out B.C.",
    ]);
}

#[test]
fn a_newcomer_is_not_taken_for_one_that_was_removed() {
    let mut bench = Bench::new(Limits { blocks: 6, ..LIMITS });
    bench.add(60, 9, Box::default());
    bench.add(40, 1, Box::default());
    bench.check(&["A 0+60/4 | wait B| free 2 | load 60 0 0 3600 | out A"]);
    bench.step();
    bench.scheduler.remove(bench.ids[1]);
    bench.add(5, 1, Box::default());
    assert_eq!(bench.ids[1], bench.ids[2]);
    bench.check(&["A 61+1/4 C 0+5/1 | wait | free 1 | load 6 1 62 25 | out AC."]);
}

#[test]
fn a_prompt_larger_than_a_step_is_chunked_and_removable() {
    let mut bench = Bench::new(LIMITS);
    bench.add(200, 1, hashes(1, 12, 0, 12));
    bench.add(200, 1, hashes(1, 12, 0, 12));
    bench.check(&["A 0+64/4 | wait B| free 60 | load 64 0 0 4096 | out "]);
    bench.scheduler.remove(bench.ids[0]);
    assert_eq!(bench.scheduler.pool.free(), 64);
    bench.check(&["B 64+64/8 | wait | free 56 | load 64 0 0 12288 | out "]);
    bench.scheduler.remove(bench.ids[1]);
    assert_eq!((bench.scheduler.pool.free(), bench.scheduler.seqs.len()), (64, 0));
    assert_eq!(bench.step(), "idle");
}

#[test]
fn the_budget_may_be_smaller_than_the_decodes() {
    let mut bench = Bench::new(Limits { step_tokens: 2, ..LIMITS });
    for _ in 0..3 {
        bench.add(1, 2, Box::default());
    }
    bench.check(&[
        "A 0+1/1 B 0+1/1 | wait C| free 62 | load 2 2 2 0 | out AB",
        "A 1+1/1 B 1+1/1 | wait C| free 62 | load 2 2 4 0 | out A.B.",
        "C 0+1/1 | wait | free 63 | load 1 1 1 0 | out C",
    ]);
}

/// Random requests, arrivals and removals: references and blocks always add up, nobody is
/// lost, and the outlook over steady steps is what then happens.
#[test]
fn nothing_leaks_under_random_load() {
    use proptest::prelude::*;
    let request = (1u32..120, 1u32..60, 0u64..4, 0usize..8, any::<bool>());
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) }, |(
        requests in proptest::collection::vec((request, 0usize..5), 1..40),
        blocks in 12u32..40,
        seqs in 1usize..6,
    )| {
        let limits = Limits { seqs, step_tokens: 48, blocks, prefix_cache: true };
        let mut bench = Bench::new(limits);
        let mut open = std::collections::HashMap::new();
        let mut ahead = 0;
        for ((prompt, output, family, shared, cancel), steps) in requests {
            let tag = bench.ids.len();
            bench.add(prompt, output, hashes(family, shared, tag as u64, 12));
            open.insert(tag, output);
            let mut outlook: Option<Steady> = None;
            for _ in 0..steps {
                let load = bench.scheduler.plan(|_| {});
                if let (Some(expected), Some(load)) = (&mut outlook, load) {
                    let forecast = expected.load;
                    let holds = ahead < expected.steps && expected.advance(ahead);
                    ahead += 1;
                    if holds {
                        prop_assert_eq!(forecast, load);
                    } else {
                        outlook = None;
                    }
                }
                if outlook.is_none() {
                    outlook = bench.scheduler.steady();
                    ahead = 0;
                }
                complete(&mut bench, &mut open)?;
                audit(&bench.scheduler)?;
            }
            if cancel && open.remove(&tag).is_some() {
                bench.scheduler.remove(bench.ids[tag]);
                audit(&bench.scheduler)?;
            }
        }
        for _ in 0..100_000 {
            if bench.scheduler.plan(|_| {}).is_none() {
                break;
            }
            complete(&mut bench, &mut open)?;
            audit(&bench.scheduler)?;
        }
        prop_assert!(open.is_empty(), "{open:?} never ended");
        prop_assert_eq!(bench.scheduler.pool.free(), blocks);
        prop_assert!(bench.scheduler.seqs.is_empty());
    });
}

type Case = Result<(), proptest::test_runner::TestCaseError>;

fn complete(bench: &mut Bench, open: &mut std::collections::HashMap<usize, u32>) -> Case {
    let mut ended = Vec::new();
    bench.scheduler.complete(|emitted| ended.push(emitted));
    for emitted in ended {
        let left = open.get_mut(&emitted.tag).expect("only open requests get tokens");
        *left -= 1;
        proptest::prop_assert_eq!(*left == 0, emitted.last);
        if *left == 0 {
            open.remove(&emitted.tag);
        }
    }
    Ok(())
}

fn audit(s: &Scheduler) -> Case {
    let mut refs = vec![0u32; s.pool.len() as usize];
    for (_, seq) in &s.seqs {
        for block in &seq.blocks {
            refs[*block as usize] += 1;
        }
    }
    let used = refs.iter().filter(|refs| **refs > 0).count();
    proptest::prop_assert_eq!(used, (s.pool.len() - s.pool.free()) as usize);
    for (block, refs) in refs.iter().enumerate() {
        proptest::prop_assert_eq!(s.pool.is_free(block as u32), *refs == 0);
    }
    proptest::prop_assert_eq!(s.running.len() + s.waiting.len(), s.seqs.len());
    Ok(())
}
