//! The worker loop with a role that does nothing, against RabbitMQ's own PerfTest.
//!
//! Both move each message once into and once out of a quorum queue: PerfTest's producer and consumer over one
//! queue, the loop from one queue to the next. Both publish persistent messages with confirms and
//! take them with the same prefetch.

use std::process::Command;
use std::time::{Duration, Instant};

use pipeline::broker::{Broker, Publication, RabbitMq};
use pipeline::{Job, LoopOptions, Outcome, Program, RetrySchedule, Worker, names};
use testkit::{VirtualHost, repository};

use crate::figure::{Figure, median};

/// Confirms outstanding and prefetch of both.
const WINDOW: u16 = 200;
const ROUNDS: usize = 3;
/// After so long PerfTest has reached its speed.
const WARM_SECONDS: f64 = 5.0;

pub fn run() -> Vec<Figure> {
    let sizes = [
        ("4 KiB", 4 << 10, 100_000, 60_000),
        ("66 KB", 66_000, 20_000, 15_000),
    ];
    let figures = sizes.map(|(label, bytes, perf_test_messages, messages)| {
        let mut ours = Vec::new();
        let mut limits = Vec::new();
        // In turn, so that both see the machine in the same state.
        for _ in 0..ROUNDS {
            limits.push(perf_test(bytes, perf_test_messages));
            ours.push(relay(bytes, messages));
        }
        Figure::against(
            format!("relay, {label} bodies"),
            "messages/s",
            median(ours),
            median(limits),
            ">=0.9",
        )
    });
    figures.into()
}

/// Messages a second once Java has compiled what it runs: without the first seconds, in which it does
/// a third of what it does later.
fn perf_test(bytes: usize, messages: usize) -> f64 {
    let host = VirtualHost::create();
    let [window, bytes, messages_text] =
        [usize::from(WINDOW), bytes, messages].map(|n| n.to_string());
    let output = Command::new(repository().join("deploy/local/perf-test"))
        .args(["-h", host.url(), "-x", "1", "-y", "1"])
        .args(["-f", "persistent", "-qq", "-u", "perf-test"])
        .args(["-C", &messages_text, "-D", &messages_text])
        .args(["-c", &window, "-q", &window, "-s", &bytes])
        .output()
        .expect("deploy/local/perf-test can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    rate_when_warm(&printed, messages as f64).unwrap_or_else(|| {
        panic!(
            "perf-test prints no rate: {printed}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// From a line for each second, `… time 1.001 s, … received: 4615 msg/s, …`, and the average of all.
fn rate_when_warm(printed: &str, messages: f64) -> Option<f64> {
    fn number(line: &str, before: &str) -> Option<f64> {
        let (_, rest) = line.split_once(before)?;
        rest.split(' ').next()?.parse().ok()
    }
    let average = printed.lines();
    let average = average
        .filter_map(|line| number(line, "receiving rate avg: "))
        .next()?;
    let (mut received, mut until) = (0.0, 0.0);
    for line in printed.lines() {
        if let (Some(time), Some(rate)) = (number(line, ", time "), number(line, "received: "))
            && until < WARM_SECONDS
        {
            received += rate * (time - until);
            until = time;
        }
    }
    let whole = messages / average;
    (whole > until).then(|| (messages - received) / (whole - until))
}

/// Messages a second from `relay-in`, filled beforehand, to `end`.
fn relay(bytes: usize, messages: usize) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let host = VirtualHost::create();
        declare(&host);
        let broker = Broker::RabbitMq(RabbitMq::new(host.url()).expect("an AMQP address"));
        fill(&broker, bytes, messages).await;
        let app = app::App::detached("relay");
        let options = LoopOptions::sized(WINDOW, usize::from(WINDOW));
        let program =
            Program::with_broker(&app, broker.clone(), &options, RetrySchedule::default());
        let started = Instant::now();
        let running = tokio::spawn(async move { pipeline::run_worker(&program, Relay).await });
        let session = broker.connect("bench").await.expect("the broker is there");
        while session
            .queue_length("end")
            .await
            .expect("the queue is there")
            < messages as u64
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = messages as f64 / started.elapsed().as_secs_f64();
        app.shutdown.trigger();
        running
            .await
            .expect("it does not panic")
            .expect("it ends well");
        rate
    })
}

struct Relay;

impl Worker for Relay {
    async fn process(&self, job: &mut Job) -> Outcome {
        job.send("next", job.message().clone()).await;
        Outcome::Done
    }
}

fn declare(host: &VirtualHost) {
    let vhost = host.name();
    for queue in ["relay-in", "end"] {
        let quorum = r#"{"durable":true,"arguments":{"x-queue-type":"quorum"}}"#;
        host.api("PUT", &format!("queues/{vhost}/{queue}"), quorum);
    }
    for exchange in ["relay-out", names::CONFIGURED] {
        host.api(
            "PUT",
            &format!("exchanges/{vhost}/{exchange}"),
            r#"{"type":"direct","durable":true}"#,
        );
    }
    host.api(
        "POST",
        &format!("bindings/{vhost}/e/relay-out/q/end"),
        r#"{"routing_key":"next"}"#,
    );
}

async fn fill(broker: &Broker, bytes: usize, messages: usize) {
    let session = broker.connect("bench").await.expect("the broker is there");
    let headers = batch::Headers::for_run(
        &"bench-1".parse().expect("a name of a run"),
        batch::MessageKind::Batch,
    );
    let message = batch::Message::new(headers, vec![b'x'; bytes]);
    let mut confirms = Vec::with_capacity(messages);
    for _ in 0..messages {
        let publication = Publication::to_queue("relay-in".into(), message.clone());
        confirms.push(
            session
                .publisher
                .publish(publication)
                .await
                .expect("the session lasts"),
        );
    }
    for confirm in confirms {
        confirm.await.expect("the session lasts");
    }
    session.close().await;
}
