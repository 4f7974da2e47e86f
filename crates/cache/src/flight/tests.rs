use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::*;
use crate::key::tests::call;

/// An upstream exchange under the test's control.
struct Exchange {
    sent: mpsc::Sender<Result<Bytes>>,
    started: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Source {
    received: mpsc::Receiver<Result<Bytes>>,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Stream for Source {
    type Item = Result<Bytes>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.received.poll_recv(cx)
    }
}

fn flights(bytes_max: usize) -> (Arc<Flights>, Metrics) {
    let metrics = Metrics::default();
    (Flights::new(FlightsConfig { bytes_max }, metrics.clone()), metrics)
}

fn request(stream: bool) -> Arc<Call> {
    Arc::new(call(&format!(r#"{{"model":"m","temperature":0,"stream":{stream}}}"#)))
}

fn reply(body: Body) -> Reply {
    Reply {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body,
        cache: CacheStatus::Miss,
        deployment: None,
    }
}

/// Joins with an exchange that streams what the test sends; the head comes at once.
fn joiner(
    flights: &Arc<Flights>,
) -> (Exchange, impl Fn() -> BoxFuture<'static, Result<Reply>> + Clone + use<>) {
    let (sent, received) = mpsc::channel(4096);
    let started = Arc::new(AtomicUsize::new(0));
    let dropped = Arc::new(AtomicUsize::new(0));
    let source = Source { received, dropped: Arc::clone(&dropped) };
    let source = Arc::new(Mutex::new(Some(source)));
    let count = Arc::clone(&started);
    let flights = Arc::clone(flights);
    let join = move || -> BoxFuture<'static, Result<Reply>> {
        let (flights, source, count) =
            (Arc::clone(&flights), Arc::clone(&source), Arc::clone(&count));
        Box::pin(async move {
            let call = request(true);
            let answer = move || -> BoxFuture<'static, Result<Reply>> {
                count.fetch_add(1, Ordering::SeqCst);
                let source = source.lock().take().unwrap();
                Box::pin(async move { Ok(reply(Body::Events(Box::pin(source)))) })
            };
            flights.join(&call, Key::of(&call), answer).await
        })
    };
    (Exchange { sent, started, dropped }, join)
}

fn events(reply: Reply) -> Chunks {
    match reply.body {
        Body::Events(events) => events,
        other => panic!("{other:?}"),
    }
}

async fn next(events: &mut Chunks) -> Option<String> {
    let chunk = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
    chunk.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn late_joiners_replay_and_then_follow() {
    let (flights, metrics) = flights(1 << 20);
    let (exchange, join) = joiner(&flights);
    let leader = join().await.unwrap();
    assert_eq!(leader.cache, CacheStatus::Miss);
    let mut leader = events(leader);
    exchange.sent.send(Ok("a".into())).await.unwrap();
    assert_eq!(next(&mut leader).await.unwrap(), "a");
    let late = join().await.unwrap();
    assert_eq!(late.cache, CacheStatus::Joined);
    let mut late = events(late);
    assert_eq!(next(&mut late).await.unwrap(), "a");
    exchange.sent.send(Ok("b".into())).await.unwrap();
    assert_eq!(next(&mut late).await.unwrap(), "b");
    assert_eq!(next(&mut leader).await.unwrap(), "b");
    drop(exchange.sent);
    assert_eq!((next(&mut late).await, next(&mut leader).await), (None, None));
    drop((leader, late));
    assert_eq!((metrics.flights_open(), exchange.started.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn the_flight_outlives_its_leader_and_the_last_one_cancels_it() {
    let (flights, metrics) = flights(1 << 20);
    let (exchange, join) = joiner(&flights);
    let mut leader = events(join().await.unwrap());
    let mut second = events(join().await.unwrap());
    // Both wait for the next chunk when the leader goes away.
    assert!(futures_util::poll!(leader.next()).is_pending());
    assert!(futures_util::poll!(second.next()).is_pending());
    assert!(futures_util::poll!(leader.next()).is_pending());
    drop(leader);
    exchange.sent.send(Ok("a".into())).await.unwrap();
    assert_eq!(next(&mut second).await.unwrap(), "a");
    assert_eq!(exchange.dropped.load(Ordering::SeqCst), 0);
    drop(second);
    assert_eq!(exchange.dropped.load(Ordering::SeqCst), 1, "the last one cancels");
    assert_eq!(metrics.flights_open(), 0);
    assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()));
}

#[tokio::test]
async fn leaving_before_the_head_cancels_as_well() {
    let (flights, metrics) = flights(1 << 20);
    let call = request(false);
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let join = || {
        let count = Count(Arc::clone(&dropped));
        flights.join(&call, Key::of(&call), move || {
            Box::pin(async move {
                let _count = count;
                std::future::pending().await
            })
        })
    };
    let mut first = Box::pin(join());
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut second = Box::pin(join());
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "the second one's answer is not needed");
    drop(first);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    drop(second);
    assert_eq!((dropped.load(Ordering::SeqCst), metrics.flights_open()), (2, 0));
}

#[tokio::test]
async fn a_failed_flight_fails_all_its_members() {
    let (flights, _) = flights(1 << 20);
    let call = request(false);
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let fail = |receive: Option<tokio::sync::oneshot::Receiver<()>>| {
        flights.join(&call, Key::of(&call), move || {
            Box::pin(async move {
                receive.unwrap().await.unwrap();
                Err(Error::invalid("no"))
            })
        })
    };
    let mut one = Box::pin(fail(Some(receive)));
    let mut two = Box::pin(fail(None));
    assert!(futures_util::poll!(&mut one).is_pending());
    assert!(futures_util::poll!(&mut two).is_pending());
    send.send(()).unwrap();
    assert_eq!(two.await.unwrap_err().message(), "no");
    assert_eq!(one.await.unwrap_err().message(), "no");
    // A broken stream fails them in the middle.
    let (exchange, join) = joiner(&flights);
    let (mut a, mut b) = (events(join().await.unwrap()), events(join().await.unwrap()));
    exchange.sent.send(Ok("a".into())).await.unwrap();
    exchange.sent.send(Err(Error::invalid("cut"))).await.unwrap();
    for events in [&mut a, &mut b] {
        assert_eq!(next(events).await.unwrap(), "a");
        assert_eq!(events.next().await.unwrap().unwrap_err().message(), "cut");
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn the_list_is_bounded() {
    let (flights, metrics) = flights(100);
    let (exchange, join) = joiner(&flights);
    let (mut fast, mut slow) = (events(join().await.unwrap()), events(join().await.unwrap()));
    for _ in 0..50 {
        exchange.sent.send(Ok(Bytes::from_static(&[b'x'; 10]))).await.unwrap();
        assert_eq!(next(&mut fast).await.unwrap().len(), 10);
    }
    let error = slow.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReaderTooSlow);
    assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()), "nobody can join now");
    assert_eq!(metrics.lagged.get(), 1);
    drop(slow);
    drop(exchange.sent);
    assert_eq!(next(&mut fast).await, None);
}

#[tokio::test]
async fn a_panic_fails_the_others() {
    let (flights, _) = flights(100);
    let call = request(false);
    let join = |panics: bool| {
        flights.join(&call, Key::of(&call), move || {
            Box::pin(async move {
                tokio::task::yield_now().await;
                assert!(!panics, "as the test wants");
                Err(Error::invalid("not reached"))
            })
        })
    };
    let mut one = Box::pin(join(true));
    let mut two = Box::pin(join(false));
    assert!(futures_util::poll!(&mut one).is_pending());
    let panicked =
        std::panic::AssertUnwindSafe(async { futures_util::poll!(&mut two).is_pending() });
    let panicked = futures_util::FutureExt::catch_unwind(panicked).await;
    assert!(panicked.is_err());
    assert_eq!(one.await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_on_all_cores_make_one_call() {
    let (flights, metrics) = flights(1 << 20);
    let (exchange, join) = joiner(&flights);
    let first = join().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let join = join.clone();
        tasks.spawn(async move {
            let mut events = events(join().await.unwrap());
            let mut text = String::new();
            while let Some(part) = next(&mut events).await {
                text += &part;
                // A third of them leave somewhere in the middle.
                if n % 3 == 0 && text.len() > n {
                    return None;
                }
            }
            Some(text)
        });
    }
    let mut expected = String::new();
    for n in 0..200 {
        let part = format!("{n} ");
        exchange.sent.send(Ok(Bytes::from(part.clone()))).await.unwrap();
        expected += &part;
        tokio::task::yield_now().await;
    }
    // Those who joined late have read from the first chunk on.
    while metrics.joined.get() < 1000 {
        tokio::task::yield_now().await;
    }
    // The leader leaves too; whoever is left carries on.
    drop(first);
    drop(exchange.sent);
    let texts: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(texts.len() >= 600);
    assert!(texts.iter().all(|text| *text == expected));
    assert_eq!(exchange.started.load(Ordering::SeqCst), 1);
    assert_eq!(exchange.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(metrics.flights_open(), 0);
}
