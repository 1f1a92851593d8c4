//! What ties a name to its addresses, by a resolver of the tests'.

use super::fake::FakeResolver;
use super::*;

fn name(text: &str) -> HostName {
    HostName::parse(text.as_bytes()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn client() -> IpAddr {
    ip("192.0.2.1")
}

async fn bound(names: &BindingCache, of: &str, address: &str) -> bool {
    names.is_bound(&name(of), ip(address), client()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_binds_for_ten_minutes_whatever_its_ttl() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1"]);
    let names = resolver.names();
    assert!(bound(&names, "a.example", "198.51.100.1").await);
    let resolver = resolver.entry("a.example", &["198.51.100.2"]);
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(bound(&names, "a.example", "198.51.100.1").await);
    assert_eq!(resolver.queries(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!bound(&names, "a.example", "198.51.100.1").await);
    assert!(bound(&names, "a.example", "198.51.100.2").await);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_not_the_names_is_asked_about_once_in_thirty_seconds() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1"]);
    let names = resolver.names();
    for _ in 0..5 {
        assert!(!bound(&names, "a.example", "203.0.113.1").await);
    }
    assert_eq!(resolver.queries(), 1);
    tokio::time::advance(ASKED_AGAIN).await;
    assert!(!bound(&names, "a.example", "203.0.113.1").await);
    assert_eq!(resolver.queries(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_never_answers_binds_nothing_after_five_seconds() {
    struct Never;
    impl Resolve for Never {
        fn resolve(&self, _: &HostName, _: Family) -> Answer<'_> {
            Box::pin(std::future::pending())
        }
    }
    let names = BindingCache::new(Box::new(Never), Memory::new(Duration::ZERO), Arc::default());
    let begun = Instant::now();
    assert!(!bound(&names, "a.example", "198.51.100.1").await);
    assert_eq!(begun.elapsed().as_secs(), ANSWER_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_before_holds_while_the_resolver_is_down() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1"]);
    let names = resolver.names();
    assert!(bound(&names, "a.example", "198.51.100.1").await);
    resolver.forget("a.example");
    tokio::time::advance(Duration::from_secs(500)).await;
    assert!(!bound(&names, "a.example", "203.0.113.1").await, "no answer");
    assert!(bound(&names, "a.example", "198.51.100.1").await);
    tokio::time::advance(Duration::from_secs(101)).await;
    assert!(!bound(&names, "a.example", "198.51.100.1").await);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_is_down_is_asked_once_in_two_seconds() {
    let resolver = FakeResolver::default();
    let names = resolver.names();
    for _ in 0..5 {
        assert!(!bound(&names, "a.example", "198.51.100.1").await);
    }
    assert_eq!(resolver.queries(), 1);
    tokio::time::advance(ASKED_AGAIN_WHEN_DOWN).await;
    let resolver = resolver.entry("a.example", &["198.51.100.1"]);
    assert!(bound(&names, "a.example", "198.51.100.1").await);
    assert_eq!(resolver.queries(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_was_told_binds_and_takes_no_other_address_away() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1", "2001:db8::1"]);
    let names = resolver.names();
    names.insert(&name("a.example"), &[ip("198.51.100.7")], Duration::from_secs(60));
    assert!(bound(&names, "a.example", "198.51.100.7").await);
    assert_eq!(resolver.queries(), 0);
    // Of its IPv6 addresses the client was told nothing: that is no answer about them.
    assert!(bound(&names, "a.example", "2001:db8::1").await);
    assert_eq!(resolver.queries(), 1);
    names.insert(&name("b.example"), &[ip("::ffff:198.51.100.8")], Duration::ZERO);
    assert!(bound(&names, "b.example", "198.51.100.8").await);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert!(!bound(&names, "b.example", "198.51.100.8").await);
}

/// Answers when it is told to.
#[derive(Clone, Default)]
struct Slow(Arc<tokio::sync::Notify>, FakeResolver);

impl Resolve for Slow {
    fn resolve(&self, name: &HostName, family: Family) -> Answer<'_> {
        let answer = self.1.resolve(name, family);
        Box::pin(async move {
            self.0.notified().await;
            answer.await
        })
    }
}

#[tokio::test]
async fn those_who_ask_at_once_share_one_query_over_all_workers() {
    let slow = Slow::default();
    let slow = Slow(slow.0, slow.1.entry("a.example", &["198.51.100.1"]));
    let memory = Memory::new(Duration::from_secs(600));
    let workers =
        [(); 2].map(|()| BindingCache::new(Box::new(slow.clone()), memory.clone(), Arc::default()));
    let name = name("a.example");
    let ask = |worker: usize| workers[worker].resolve(&name, client());
    let answer = async {
        tokio::task::yield_now().await;
        slow.0.notify_waiters();
    };
    let (a, b, c, ()) = tokio::join!(ask(0), ask(1), ask(0), answer);
    let expected = Ok(vec![ip("198.51.100.1")]);
    assert_eq!([a, b, c], [expected.clone(), expected.clone(), expected]);
    assert_eq!(slow.1.queries(), 2, "one a family");
    assert!(memory.asking.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_who_waits_for_a_query_that_is_given_up_asks_anew() {
    let slow = Slow::default();
    let slow = Slow(slow.0, slow.1.entry("a.example", &["198.51.100.1"]));
    let names =
        BindingCache::new(Box::new(slow.clone()), Memory::new(Duration::ZERO), Arc::default());
    let name = name("a.example");
    let mut first = Box::pin(names.resolve(&name, client()));
    let mut second = Box::pin(names.resolve(&name, client()));
    for waiting in [&mut first, &mut second] {
        assert!(timeout(Duration::ZERO, waiting).await.is_err());
    }
    drop(first);
    let answer = async {
        tokio::task::yield_now().await;
        slow.0.notify_waiters();
    };
    let (answered, ()) = tokio::join!(second, answer);
    assert_eq!(answered, Ok(vec![ip("198.51.100.1")]));
    assert_eq!(slow.1.queries(), 4, "two a family");
}

#[tokio::test(start_paused = true)]
async fn no_ttl_binds_for_more_than_a_day() {
    let memory = Memory::new(Duration::from_secs(600));
    let for_ever = Duration::from_secs(u64::from(u32::MAX));
    let answer = Ok(Addresses { addresses: vec![ip("198.51.100.1")], ttl: for_ever });
    memory.remember(&name("a.example"), Family::V4, &answer);
    tokio::time::advance(TTL_MAX).await;
    assert!(!memory.is_kept(&name("a.example"), ip("198.51.100.1")));
}

#[tokio::test]
async fn a_mapped_answer_is_its_ipv4() {
    let names = FakeResolver::default().entry("a.example", &["::ffff:198.51.100.1"]).names();
    assert!(bound(&names, "a.example", "198.51.100.1").await);
}

#[tokio::test]
async fn the_memory_is_bounded() {
    let resolver = FakeResolver::default();
    let names = resolver.names();
    let answer = Ok(Addresses { addresses: vec![ip("198.51.100.1")], ttl: Duration::ZERO });
    for i in 0..NAMES_MAX * 2 {
        names.memory.remember(&name(&format!("n{i}.example")), Family::V4, &answer);
    }
    assert!(names.memory.known.lock().unwrap().names.len() <= NAMES_MAX);
}

#[tokio::test]
async fn a_flood_of_names_takes_none_away_that_is_in_use() {
    let names = FakeResolver::default().names();
    let (used, address) = (name("used.example"), ip("198.51.100.1"));
    let day = Duration::from_secs(86_400);
    names.insert(&used, &[address], day);
    for i in 0..NAMES_MAX * 3 {
        if i % (NAMES_MAX / 2) == 0 {
            assert!(names.memory.is_kept(&used, address), "after {i} others");
        }
        names.insert(&name(&format!("n{i}.example")), &[address], day);
    }
    // All of them in use: some give way, and not all.
    for i in 0..NAMES_MAX * 3 {
        names.memory.is_kept(&name(&format!("n{i}.example")), address);
    }
    let before = names.memory.known.lock().unwrap().names.len();
    names.insert(&name("more.example"), &[address], day);
    assert!(names.memory.known.lock().unwrap().names.len() > before / 2);
}

/// Answers about one family at once, and about the other one after so long.
struct Late(FakeResolver, Family, Duration);

impl Resolve for Late {
    fn resolve(&self, name: &HostName, family: Family) -> Answer<'_> {
        let answer = self.0.resolve(name, family);
        let wait = if family == self.1 { self.2 } else { Duration::ZERO };
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            answer.await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a05_what_is_in_hand_is_used_where_the_other_family_is_slow() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1", "2001:db8::1"]);
    let [four, six] = ["198.51.100.1", "2001:db8::1"].map(ip);
    let name = name("a.example");
    for (late, in_hand) in [(Family::V6, four), (Family::V4, six)] {
        for (wait, wanted) in [(40, vec![four, six]), (1_500, vec![in_hand])] {
            let late = Late(resolver.clone(), late, Duration::from_millis(wait));
            let memory = Memory::new(Duration::ZERO);
            let names = BindingCache::new(Box::new(late), memory, Arc::default());
            let begun = Instant::now();
            assert_eq!(names.resolve(&name, client()).await, Ok(wanted));
            assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
            // Bound at once to what is in hand, and in the end to the other one.
            let begun = Instant::now();
            assert_eq!(names.is_bound(&name, in_hand, client()).await, Ok(true));
            assert!(begun.elapsed() < Duration::from_millis(10));
            let other = if in_hand == four { six } else { four };
            assert_eq!(names.is_bound(&name, other, client()).await, Ok(true));
        }
    }
    // A name of one family is not there before the other one has said no.
    let resolver = FakeResolver::default().entry("b.example", &["198.51.100.1"]);
    let late = Late(resolver, Family::V4, Duration::from_millis(1_500));
    let names = BindingCache::new(Box::new(late), Memory::new(Duration::ZERO), Arc::default());
    let one = HostName::parse(b"b.example").unwrap();
    assert_eq!(names.resolve(&one, client()).await, Ok(vec![four]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_one_for_as_long_as_it_says() {
    let resolver = FakeResolver::default().entry("a.example", &["198.51.100.1"]);
    let names = resolver.names();
    for _ in 0..3 {
        assert!(names.resolve(&name("a.example"), client()).await.is_ok());
    }
    assert_eq!(resolver.queries(), 2);
    tokio::time::advance(ASKED_AGAIN).await;
    assert!(names.resolve(&name("a.example"), client()).await.is_ok());
    assert_eq!(resolver.queries(), 3, "that there is no IPv6 is asked again");
    tokio::time::advance(ASKED_AGAIN).await;
    assert!(names.resolve(&name("a.example"), client()).await.is_ok());
    assert_eq!(resolver.queries(), 5);
}

#[tokio::test]
async fn a07_every_address_of_an_answer_binds() {
    let names = FakeResolver::default().names();
    let many: Vec<_> = (0..2_000_u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
    names.insert(&name("many.example"), &many, Duration::from_secs(60));
    for address in &many {
        assert!(bound(&names, "many.example", &address.to_string()).await, "{address}");
    }
    // So many of so many names have no room: all of them together are bounded.
    for n in 0..400 {
        names.insert(&name(&format!("n{n}.example")), &many, Duration::from_secs(60));
    }
    assert!(names.memory.known.lock().unwrap().addresses <= ADDRESSES_MAX);
    let counted = |known: &Known| known.names.values().map(|it| it.addresses.len()).sum::<usize>();
    let known = names.memory.known.lock().unwrap();
    assert_eq!(known.addresses, counted(&known));
}
