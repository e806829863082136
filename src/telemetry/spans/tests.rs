use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Ready, pending, ready};

use bytes::Bytes;
use expect_test::expect;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::*;

/// In the clock of a paused runtime, which jumps when nothing else can run: a test that would hang fails at once.
const LIMIT: Duration = Duration::from_secs(3600);

fn span(number: u8) -> Span {
    let start = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    Span {
        trace_id: [0xab; 16],
        span_id: [0, 0, 0, 0, 0, 0, 0, number],
        parent_id: None,
        name: "POST".into(),
        kind: SpanKind::Server,
        start,
        end: start + Duration::from_millis(7),
        attributes: Vec::new(),
        is_error: false,
    }
}

/// The spans of one posted body.
fn spans_in(body: &Bytes) -> Vec<Value> {
    let body: Value = serde_json::from_slice(body).unwrap();
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

/// Stands in for the collector: answers as told, then with 200, and keeps how many spans each POST carried.
struct FakeCollector {
    answers: RefCell<VecDeque<Result<u16, String>>>,
    batches: RefCell<Vec<usize>>,
}

impl FakeCollector {
    fn new(answers: impl IntoIterator<Item = Result<u16, String>>) -> Self {
        Self { answers: RefCell::new(answers.into_iter().collect()), batches: RefCell::default() }
    }

    fn post(&self, body: &Bytes) -> Ready<Result<u16, String>> {
        self.batches.borrow_mut().push(spans_in(body).len());
        ready(self.answers.borrow_mut().pop_front().unwrap_or(Ok(200)))
    }

    /// Exports `spans` spans and nothing more; gives the batches posted and the spans dropped.
    async fn export_all(&self, spans: usize) -> (Vec<usize>, u64) {
        let (sink, receiver) = channel(spans);
        for _ in 0..spans {
            sink.send(span(1));
        }
        export(receiver, ready(()), prepare, |body| self.post(&body)).await;
        (self.batches.take(), sink.dropped())
    }
}

fn prepare(spans: &[Span]) -> Result<Bytes, String> {
    otlp::request(spans).map_err(|error| error.to_string())
}

fn refused() -> Result<u16, String> {
    Err("connection refused".into())
}

#[test]
fn spans_are_encoded_as_otlp_json() {
    let start = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    let server = Span {
        trace_id: *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36",
        span_id: *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7",
        parent_id: None,
        name: "POST /v1/chat/completions".into(),
        kind: SpanKind::Server,
        start,
        end: start + Duration::from_millis(250),
        attributes: vec![
            (semconv::HTTP_REQUEST_METHOD, AttributeValue::String("POST".into())),
            (semconv::URL_PATH, AttributeValue::String("/v1/chat/\"完\"".into())),
            (semconv::HTTP_RESPONSE_STATUS_CODE, AttributeValue::Int(200)),
        ],
        is_error: false,
    };
    let client = Span {
        span_id: [1, 2, 3, 4, 5, 6, 7, 8],
        parent_id: Some(server.span_id),
        name: "chat qwen-max".into(),
        kind: SpanKind::Client,
        attributes: vec![
            (semconv::GEN_AI_OPERATION_NAME, AttributeValue::String(semconv::GEN_AI_OPERATION_CHAT.into())),
            (semconv::GEN_AI_USAGE_INPUT_TOKENS, AttributeValue::Int(i64::MAX)),
            (semconv::GEN_AI_RESPONSE_FINISH_REASONS, AttributeValue::Strings(vec!["stop".into(), "length".into()])),
            ("weirgate.shadow", AttributeValue::Bool(true)),
            ("weirgate.cost", AttributeValue::Double(0.25)),
            ("weirgate.score", AttributeValue::Double(f64::NAN)),
            ("weirgate.least", AttributeValue::Double(f64::NEG_INFINITY)),
            ("weirgate.most", AttributeValue::Double(f64::INFINITY)),
        ],
        is_error: true,
        ..server
    };
    let body: Value = serde_json::from_slice(&otlp::request(&[server, client]).unwrap()).unwrap();
    let text = serde_json::to_string_pretty(&body).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    expect![[r#"
        {
          "resourceSpans": [
            {
              "resource": {
                "attributes": [
                  {
                    "key": "service.name",
                    "value": {
                      "stringValue": "weirgate"
                    }
                  },
                  {
                    "key": "service.version",
                    "value": {
                      "stringValue": "VERSION"
                    }
                  }
                ]
              },
              "scopeSpans": [
                {
                  "scope": {
                    "name": "weirgate"
                  },
                  "spans": [
                    {
                      "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                      "spanId": "00f067aa0ba902b7",
                      "name": "POST /v1/chat/completions",
                      "kind": 2,
                      "startTimeUnixNano": "1700000000123456789",
                      "endTimeUnixNano": "1700000000373456789",
                      "attributes": [
                        {
                          "key": "http.request.method",
                          "value": {
                            "stringValue": "POST"
                          }
                        },
                        {
                          "key": "url.path",
                          "value": {
                            "stringValue": "/v1/chat/\"完\""
                          }
                        },
                        {
                          "key": "http.response.status_code",
                          "value": {
                            "intValue": "200"
                          }
                        }
                      ],
                      "status": {
                        "code": 1
                      }
                    },
                    {
                      "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                      "spanId": "0102030405060708",
                      "parentSpanId": "00f067aa0ba902b7",
                      "name": "chat qwen-max",
                      "kind": 3,
                      "startTimeUnixNano": "1700000000123456789",
                      "endTimeUnixNano": "1700000000373456789",
                      "attributes": [
                        {
                          "key": "gen_ai.operation.name",
                          "value": {
                            "stringValue": "chat"
                          }
                        },
                        {
                          "key": "gen_ai.usage.input_tokens",
                          "value": {
                            "intValue": "9223372036854775807"
                          }
                        },
                        {
                          "key": "gen_ai.response.finish_reasons",
                          "value": {
                            "arrayValue": {
                              "values": [
                                {
                                  "stringValue": "stop"
                                },
                                {
                                  "stringValue": "length"
                                }
                              ]
                            }
                          }
                        },
                        {
                          "key": "weirgate.shadow",
                          "value": {
                            "boolValue": true
                          }
                        },
                        {
                          "key": "weirgate.cost",
                          "value": {
                            "doubleValue": 0.25
                          }
                        },
                        {
                          "key": "weirgate.score",
                          "value": {
                            "doubleValue": "NaN"
                          }
                        },
                        {
                          "key": "weirgate.least",
                          "value": {
                            "doubleValue": "-Infinity"
                          }
                        },
                        {
                          "key": "weirgate.most",
                          "value": {
                            "doubleValue": "Infinity"
                          }
                        }
                      ],
                      "status": {
                        "code": 2
                      }
                    }
                  ]
                }
              ]
            }
          ]
        }"#]]
    .assert_eq(&text);
}

#[test]
fn spans_are_encoded_for_zipkin_and_skywalking() {
    let server = Span {
        name: "POST web".into(),
        parent_id: Some([7; 8]),
        attributes: vec![
            (semconv::HTTP_REQUEST_METHOD, AttributeValue::String("POST".into())),
            (semconv::HTTP_RESPONSE_STATUS_CODE, AttributeValue::Int(503)),
            (semconv::CLIENT_ADDRESS, AttributeValue::String("10.0.0.9".into())),
        ],
        is_error: true,
        ..span(1)
    };
    let shown = |body: Bytes| -> String {
        let body: Value = serde_json::from_slice(&body).unwrap();
        serde_json::to_string(&body).unwrap()
    };
    expect![[r#"[{"traceId":"abababababababababababababababab","id":"0000000000000001","parentId":"0707070707070707","name":"POST web","kind":"SERVER","timestamp":1700000000123456,"duration":7000,"localEndpoint":{"serviceName":"weirgate"},"tags":{"client.address":"10.0.0.9","error":"true","http.request.method":"POST","http.response.status_code":"503"}}]"#]].assert_eq(&shown(zipkin::request(std::slice::from_ref(&server)).unwrap()));
    expect![[r#"[{"traceId":"abababababababababababababababab","traceSegmentId":"0000000000000001","service":"weirgate","serviceInstance":"weirgate","spans":[{"operationName":"POST web","startTime":1700000000123,"endTime":1700000000130,"spanType":"Entry","spanLayer":"Http","spanId":0,"parentSpanId":-1,"componentId":6000,"isError":true,"tags":[{"key":"http.request.method","value":"POST"},{"key":"http.response.status_code","value":"503"},{"key":"client.address","value":"10.0.0.9"}]}]}]"#]].assert_eq(&shown(skywalking::request(&[server]).unwrap()));
}

#[test]
fn a_span_before_1970_starts_at_zero() {
    let early = Span { start: UNIX_EPOCH - Duration::from_secs(1), ..span(1) };
    let encoded = spans_in(&otlp::request(&[early]).unwrap());
    assert_eq!(encoded[0]["startTimeUnixNano"], "0");
}

#[test]
fn the_path_is_appended_once() {
    assert_eq!(otlp::traces_url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
    assert_eq!(otlp::traces_url("https://collector.example/otlp/"), "https://collector.example/otlp/v1/traces");
}

#[test]
fn what_the_queue_cannot_hold_is_counted_for_every_clone() {
    let (sink, receiver) = channel(2);
    let clone = sink.clone();
    for number in 0..5 {
        clone.send(span(number));
    }
    assert_eq!(sink.dropped(), 3);
    drop(receiver);
    sink.send(span(5));
    assert_eq!(clone.dropped(), 4, "a span sent after the export has ended is lost");
}

#[test]
fn the_smallest_queue_holds_one_span() {
    let (sink, _receiver) = channel(0);
    sink.send(span(1));
    assert_eq!(sink.dropped(), 0);
    sink.send(span(2));
    assert_eq!(sink.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_leaves_when_it_is_full_and_a_smaller_one_when_its_time_is_over() {
    let (sink, receiver) = channel(2 * BATCH_SPANS);
    let (posted, mut seen) = watch::channel(Vec::new());
    let post = |body: Bytes| {
        posted.send_modify(|batches| batches.push((Instant::now(), spans_in(&body).len())));
        ready(Ok(200))
    };
    let began = Instant::now();
    for _ in 0..BATCH_SPANS + 3 {
        sink.send(span(1));
    }
    tokio::select! {
        () = export(receiver, pending(), prepare, post) => panic!("the sink is still there"),
        () = sleep(LIMIT) => panic!("two batches were due"),
        seen = seen.wait_for(|batches| batches.len() == 2) => {
            // The clock is paused: it moves only when everything waits for it.
            assert_eq!(*seen.unwrap(), [(began, BATCH_SPANS), (began + FLUSH_INTERVAL, 3)]);
        }
    }
}

#[tokio::test]
async fn the_rest_is_exported_when_every_sink_is_gone() {
    let (sink, receiver) = channel(10);
    sink.send(span(1));
    sink.send(span(2));
    drop(sink);
    let collector = FakeCollector::new([]);
    export(receiver, pending(), prepare, |body| collector.post(&body)).await;
    assert_eq!(collector.batches.take(), [2]);
}

#[tokio::test]
async fn the_rest_is_exported_at_shutdown_while_sinks_live_on() {
    let (sink, receiver) = channel(2 * BATCH_SPANS);
    let (stop, stopped) = oneshot::channel::<()>();
    let collector = FakeCollector::new([]);
    let shutdown = async {
        for _ in 0..BATCH_SPANS + 1 {
            sink.send(span(1));
        }
        stop.send(()).unwrap();
    };
    let stopped = async { stopped.await.unwrap() };
    tokio::join!(export(receiver, stopped, prepare, |body| collector.post(&body)), shutdown);
    assert_eq!(collector.batches.take(), [BATCH_SPANS, 1]);
    assert_eq!(sink.dropped(), 0);
    sink.send(span(1));
    assert_eq!(sink.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_retried_once_and_then_dropped_and_counted() {
    let collector = FakeCollector::new([refused()]);
    assert_eq!(collector.export_all(3).await, (vec![3, 3], 0), "the second attempt is taken");
    let collector = FakeCollector::new([Ok(503), refused()]);
    assert_eq!(collector.export_all(3).await, (vec![3, 3], 3), "there is no third");
    for permanent in [400, 401, 404, 413, 500, 302] {
        let collector = FakeCollector::new([Ok(permanent)]);
        assert_eq!(collector.export_all(3).await, (vec![3], 3), "{permanent} is not retried");
    }
}

#[tokio::test(start_paused = true)]
async fn the_export_goes_on_after_a_lost_batch() {
    let (sink, receiver) = channel(2 * BATCH_SPANS);
    for _ in 0..BATCH_SPANS + 1 {
        sink.send(span(1));
    }
    let (recovered, seen) = oneshot::channel();
    let recovered = RefCell::new(Some(recovered));
    let collector = FakeCollector::new([refused(), refused()]);
    let post = |body: Bytes| {
        let answer = collector.post(&body);
        if collector.batches.borrow().len() == 3 {
            recovered.take().unwrap().send(()).unwrap();
        }
        answer
    };
    let exported = export(receiver, async { seen.await.unwrap() }, prepare, post);
    timeout(LIMIT, exported).await.expect("three posts and then the stop");
    assert_eq!(collector.batches.take(), [BATCH_SPANS, BATCH_SPANS, 1]);
    assert_eq!(sink.dropped(), BATCH_SPANS as u64);
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_one_batch_at_shutdown_and_the_rest_is_counted() {
    let collector = FakeCollector::new([refused(), refused()]);
    let n_spans = 3 * BATCH_SPANS;
    assert_eq!(collector.export_all(n_spans).await, (vec![BATCH_SPANS; 2], n_spans as u64));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_is_given_up() {
    let (sink, receiver) = channel(1);
    sink.send(span(1));
    let began = Instant::now();
    export(receiver, ready(()), prepare, |_| pending()).await;
    assert_eq!(began.elapsed(), POST_TIMEOUT + RETRY_AFTER + POST_TIMEOUT);
    assert_eq!(sink.dropped(), 1);
}

#[test]
fn an_outage_is_reported_once_at_each_end() {
    let mut collector = Collector::default();
    let turns = [true, false, false, true, true, false].map(|is_ok| collector.observe(is_ok));
    assert_eq!(turns, [None, Some(Turn::Failed), None, Some(Turn::Recovered), None, Some(Turn::Failed)]);
}
