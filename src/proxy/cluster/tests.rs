use std::time::Duration;

use super::*;
use crate::config::model::{CircuitBreakers, HealthCheck, Probe, RetryBudget, SlowStart};
use crate::telemetry::metrics::ServiceLimit;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_gateway_errors: 2,
        consecutive_5xx_errors: 3,
        interval: secs(10),
        base_ejection: secs(30),
        max_ejection: secs(70),
        max_ejection_percent: 50,
    }
}

/// A cluster whose time passes when it is told.
struct Bench {
    cluster: Cluster,
    addresses: Vec<SocketAddr>,
    policy: TrafficPolicy,
    balancer: Balancer,
    now: Instant,
}

impl Bench {
    fn new(n: u16) -> Bench {
        let cluster = Cluster::new("web", Arc::default());
        Bench {
            addresses: (1..=n).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect(),
            policy: TrafficPolicy { outlier: Some(outlier()), ..TrafficPolicy::default() },
            balancer: Balancer::default(),
            now: cluster.began,
            cluster,
        }
    }

    fn pick(&self) -> Option<Arc<Endpoint>> {
        self.cluster.pick(&self.addresses, &self.balancer, None, &self.policy, &Visited::default(), self.now)
    }

    /// Ports that get requests, in order.
    fn served(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = (0..20).filter_map(|_| Some(self.pick()?.address.port())).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn endpoint(&self, port: u16) -> Arc<Endpoint> {
        let members = self.cluster.members(&self.addresses, self.now);
        members.endpoints.iter().find(|endpoint| endpoint.address.port() == port).unwrap().clone()
    }

    fn report(&self, port: u16, outcomes: &[Outcome]) {
        for outcome in outcomes {
            self.cluster.report(&self.endpoint(port), *outcome, &self.policy, self.now);
        }
    }

    fn n_ejections(&self) -> u64 {
        self.cluster.metrics.upstream_ejections.get_or_create(&self.cluster.label()).get()
    }
}

const FAILED: Outcome = Outcome::Failed;

fn status(status: u16) -> Outcome {
    Outcome::Answered(status)
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let bench = Bench::new(3);
    bench.report(1, &[FAILED, status(200), status(503), status(404), status(504)]);
    bench.report(2, &[status(500), status(500), status(503)]);
    assert_eq!(bench.served(), [1, 3], "three of 5xx");
    assert_eq!(bench.n_ejections(), 1);
    bench.report(1, &[status(502)]);
    assert_eq!(bench.served(), [1, 3], "half of three is one");
}

#[test]
fn a_policy_may_switch_either_count_off() {
    let mut bench = Bench::new(4);
    bench.policy.outlier =
        Some(OutlierDetection { consecutive_gateway_errors: 0, consecutive_5xx_errors: 2, ..outlier() });
    bench.report(1, &[FAILED, FAILED]);
    bench.policy.outlier = Some(OutlierDetection { consecutive_5xx_errors: 0, ..outlier() });
    bench.report(2, &[status(500); 9]);
    assert_eq!(bench.served(), [2, 3, 4]);
    bench.policy.outlier = None;
    bench.report(3, &[FAILED; 9]);
    assert_eq!(bench.served(), [2, 3, 4]);
}

/// Regression: while one of two endpoints was left out and the other one stopped, a request went to the latter again and again.
#[test]
fn what_is_left_out_is_tried_before_what_just_failed() {
    let bench = Bench::new(2);
    bench.report(1, &[Outcome::Failed, Outcome::Failed]);
    assert_eq!(bench.served(), [2]);
    let pick = |visited: &Visited| {
        let picked = bench.cluster.pick(&bench.addresses, &bench.balancer, None, &bench.policy, visited, bench.now);
        picked.unwrap().address.port()
    };
    let mut visited = Visited::default();
    visited.push(bench.addresses[1]);
    assert_eq!(pick(&visited), 1);
    visited.push(bench.addresses[0]);
    assert_eq!(pick(&visited), 2, "all were tried");
}

/// Regression: where the only endpoint that was well answered 503 now and then, its repetitions went to one that was down.
#[test]
fn what_answers_is_asked_again_before_what_is_left_out() {
    let bench = Bench::new(2);
    bench.report(1, &[Outcome::Failed, Outcome::Failed]);
    let mut visited = Visited::default();
    visited.push(bench.addresses[1]);
    visited.answered();
    let picked = bench.cluster.pick(&bench.addresses, &bench.balancer, None, &bench.policy, &visited, bench.now);
    assert_eq!(picked.unwrap().address.port(), 2);
}

#[test]
fn ejections_end_and_grow_with_each_that_follows_soon() {
    let mut bench = Bench::new(2);
    for spell in [30, 60, 70] {
        bench.report(1, &[FAILED, FAILED]);
        bench.now += secs(spell - 1);
        assert_eq!(bench.served(), [2], "{spell}");
        bench.now += secs(1);
        assert_eq!(bench.served(), [1, 2], "{spell}");
    }
    bench.now += secs(20);
    bench.report(1, &[FAILED, FAILED]);
    bench.now += secs(59);
    assert_eq!(bench.served(), [2], "two quiet intervals are two steps back: 60 s after 90 s");
    bench.now += secs(1);
    assert_eq!(bench.served(), [1, 2]);
}

#[test]
fn no_more_than_allowed_are_out_and_where_none_is_usable_all_are_used() {
    let mut bench = Bench::new(4);
    for port in 1..=4 {
        bench.report(port, &[FAILED, FAILED]);
    }
    assert_eq!((bench.served(), bench.n_ejections()), (vec![3, 4], 2));
    bench.policy.outlier = Some(OutlierDetection { max_ejection_percent: 100, ..outlier() });
    bench.report(3, &[FAILED, FAILED]);
    assert_eq!(bench.served(), [4]);
    bench.policy.min_health_percent = 50;
    assert_eq!(bench.served(), [1, 2, 3, 4], "a quarter is less than half");
    bench.policy.min_health_percent = 0;
    bench.report(4, &[FAILED, FAILED]);
    assert_eq!(bench.served(), [1, 2, 3, 4], "none is usable");
    assert!(bench.cluster.metrics.upstream_panics.get_or_create(&bench.cluster.label()).get() > 0);

    let alone = Bench::new(1);
    alone.report(1, &[FAILED; 9]);
    assert_eq!((alone.served(), alone.n_ejections()), (vec![1], 0));
    let mut none = Bench::new(3);
    none.policy.outlier = Some(OutlierDetection { max_ejection_percent: 0, ..outlier() });
    none.report(1, &[FAILED; 9]);
    assert_eq!(none.n_ejections(), 0);
}

#[test]
fn what_is_known_of_an_address_stays_as_long_as_the_address() {
    let mut bench = Bench::new(3);
    bench.report(1, &[FAILED, FAILED]);
    bench.addresses.reverse();
    bench.addresses.push("127.0.0.1:9".parse().unwrap());
    assert_eq!(bench.served(), [2, 3, 9]);
    bench.addresses.retain(|address| address.port() != 1);
    bench.served();
    bench.addresses.push("127.0.0.1:1".parse().unwrap());
    assert_eq!(bench.served(), [1, 2, 3, 9], "it is another one now");
    assert!(Bench::new(0).pick().is_none());
}

fn check(healthy_threshold: u32, unhealthy_threshold: u32) -> HealthCheck {
    HealthCheck { probe: Probe::Tcp, interval: secs(5), timeout: secs(1), healthy_threshold, unhealthy_threshold }
}

#[test]
fn checks_take_endpoints_out_and_bring_them_back_after_enough_results() {
    let bench = Bench::new(2);
    let endpoint = bench.endpoint(1);
    let check = check(2, 3);
    assert_eq!(endpoint.checked(false, &check, 0), Some(false), "the first result counts at once");
    assert_eq!(bench.served(), [2]);
    assert_eq!([true, false, true].map(|good| endpoint.checked(good, &check, 0)), [None; 3]);
    assert_eq!(endpoint.checked(true, &check, 0), Some(true));
    assert_eq!(bench.served(), [1, 2]);
    assert_eq!([false, false, true, false, false].map(|good| endpoint.checked(good, &check, 0)), [None; 5]);
    assert_eq!(endpoint.checked(false, &check, 0), Some(false));
    bench.endpoint(2).checked(false, &check, 0);
    assert_eq!(bench.served(), [1, 2], "all are unwell, so all are used");
    endpoint.unchecked();
    assert_eq!(bench.served(), [1]);
}

#[test]
fn the_share_grows_from_the_start_and_after_a_return() {
    let mut bench = Bench::new(2);
    let slow_start = SlowStart { window: secs(100), aggression: 1.0, min_percent: 10.0 };
    let shares = |bench: &Bench, slow_start: &SlowStart, at: &[u64]| -> Vec<u64> {
        let endpoint = bench.endpoint(1);
        at.iter().map(|secs| (endpoint.share(slow_start, secs * 1000) * 100.0).round() as u64).collect()
    };
    assert_eq!(shares(&bench, &slow_start, &[0, 10, 50, 99, 100, 500]), [10, 10, 50, 99, 100, 100]);
    let faster = SlowStart { aggression: 2.0, ..slow_start };
    assert_eq!(shares(&bench, &faster, &[25]), [50]);
    bench.now += secs(200);
    bench.report(1, &[FAILED, FAILED]);
    assert_eq!(shares(&bench, &slow_start, &[230, 280, 330]), [10, 50, 100], "from the end of the ejection on");
    bench.endpoint(1).checked(false, &check(1, 1), 400_000);
    bench.endpoint(1).checked(true, &check(1, 1), 500_000);
    assert_eq!(shares(&bench, &slow_start, &[520]), [20]);
    bench.policy.slow_start = Some(slow_start);
    bench.now = bench.cluster.began + secs(520);
    let n = (0..1200).filter(|_| bench.pick().unwrap().address.port() == 1).count();
    assert!((140..270).contains(&n), "a fifth of what the other gets: {n}");
}

fn overflows(cluster: &Cluster, limit: &'static str) -> u64 {
    cluster.metrics.upstream_overflow.get_or_create(&ServiceLimit { service: "web".into(), limit }).get()
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_limits_are_refused_and_those_in_the_queue_get_their_turn() {
    let cluster = Arc::new(Cluster::new("web", Arc::default()));
    let limits = CircuitBreakers {
        max_connections: Some(1),
        max_pending: Some(1),
        max_requests: Some(3),
        ..CircuitBreakers::default()
    };
    let first = cluster.admit(&limits, true, secs(5)).await.unwrap();
    let (waiting, ()) = futures_util::future::join(cluster.admit(&limits, true, secs(5)), async {
        assert_eq!(cluster.admit(&limits, true, secs(5)).await.err(), Some(Limit::Pending));
        let over_http2 = cluster.admit(&limits, false, secs(5)).await.unwrap();
        assert_eq!(cluster.admit(&limits, false, secs(5)).await.err(), Some(Limit::Requests));
        drop((over_http2, first));
    })
    .await;
    let second = waiting.unwrap();
    assert_eq!(cluster.admit(&limits, true, secs(5)).await.err(), Some(Limit::Connections), "nobody leaves in time");
    drop(second);
    assert!(cluster.admit(&limits, true, secs(5)).await.is_ok());
    assert_eq!(["connections", "pending", "requests"].map(|limit| overflows(&cluster, limit)), [1, 1, 1]);
}

#[tokio::test]
async fn repetitions_have_a_number_or_a_share() {
    let cluster = Arc::new(Cluster::new("web", Arc::default()));
    let unlimited = CircuitBreakers::default();
    assert!(cluster.retry(&unlimited).is_some());
    let limits = CircuitBreakers { max_retries: Some(1), ..unlimited.clone() };
    let one = cluster.retry(&limits).unwrap();
    assert!(cluster.retry(&limits).is_none());
    drop(one);
    assert!(cluster.retry(&limits).is_some());

    let budget = RetryBudget { percent: 20.0, min_concurrency: 1 };
    let limits = CircuitBreakers { max_retries: Some(0), retry_budget: Some(budget), ..unlimited };
    let one = cluster.retry(&limits).unwrap();
    assert!(cluster.retry(&limits).is_none());
    let mut active = Vec::new();
    for _ in 0..10 {
        active.push(cluster.admit(&limits, true, secs(1)).await.unwrap());
    }
    let two = cluster.retry(&limits).unwrap();
    assert!(cluster.retry(&limits).is_none(), "a fifth of ten is two");
    drop((one, two, active));
    assert_eq!(overflows(&cluster, "retries"), 3);
}
