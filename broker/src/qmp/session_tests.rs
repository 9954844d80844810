//! Conversations in QMP, compared with QEMU's.

use super::*;
use crate::hmp::host::RunStatus;
use crate::hmp::session::tests::Fake;
use crate::qmp::jobs::Status;
use replay::message::Offer;
use replay::setup::Mode;

fn values(session: &mut Session) -> Vec<Value> {
    let text = String::from_utf8(session.take_output()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn negotiated(host: &mut Fake) -> Session {
    let mut session = Session::new(false);
    session.input(b"{\"execute\":\"qmp_capabilities\"}", host);
    assert_eq!(values(&mut session), [json!({"return": {}})]);
    session
}

fn ask(session: &mut Session, host: &mut Fake, request: &str) -> Value {
    session.input(format!("{request}\n").as_bytes(), host);
    let mut answers = values(session);
    assert_eq!(answers.len(), 1, "{request}: {answers:?}");
    answers.remove(0)
}

fn error(class: &str, description: &str) -> Value {
    json!({"error": {"class": class, "desc": description}})
}

#[test]
fn nothing_is_done_before_negotiation() {
    let mut host = Fake::new(Mode::Plain);
    let mut session = Session::new(false);
    session.greet();
    let greeting = values(&mut session).remove(0);
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64(), "{greeting}");
    assert_eq!(greeting["QMP"]["capabilities"], json!([]));
    let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    let found = ask(&mut session, &mut host, "{\"execute\":\"query-status\"}");
    assert_eq!(found, error("CommandNotFound", expecting));
    session.notice(&Notice { what: What::Stop, unix_us: 1 });
    assert_eq!(values(&mut session), [Value::Null; 0]);
    let enable = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";
    assert!(ask(&mut session, &mut host, enable)["error"].is_object());
    let found = ask(&mut session, &mut host, "{\"execute\":\"qmp_capabilities\",\"id\":\"a\"}");
    assert_eq!(found, json!({"return": {}, "id": "a"}));
    let found = ask(&mut session, &mut host, "{\"execute\":\"qmp_capabilities\"}");
    let already = "Capabilities negotiation is already complete, command ignored";
    assert_eq!(found, error("CommandNotFound", already));
}

#[test]
fn refusals_are_those_of_qemu() {
    let mut host = Fake::new(Mode::Plain);
    let mut session = negotiated(&mut host);
    for (request, class, description) in [
        ("{\"execute\":\"nosuch\"}", "CommandNotFound", "The command nosuch has not been found"),
        ("{\"execute\":\"replay-seek\"}", "GenericError", "Parameter 'icount' is missing"),
        (
            "{\"execute\":\"replay-seek\",\"arguments\":{\"icount\":\"x\"}}",
            "GenericError",
            "Invalid parameter type for 'icount', expected: integer",
        ),
        (
            "{\"execute\":\"replay-seek\",\"arguments\":{\"icount\":-1}}",
            "GenericError",
            "replay must be enabled to seek",
        ),
        (
            "{\"execute\":\"replay-break\",\"arguments\":{\"icount\":1}}",
            "GenericError",
            "setting the breakpoint is allowed only in play mode",
        ),
        (
            "{\"execute\":\"replay-delete-break\"}",
            "GenericError",
            "replay breakpoints are allowed only in play mode",
        ),
        (
            "{\"execute\":\"replay-seek\",\"arguments\":{\"icount\":1,\"foo\":2}}",
            "GenericError",
            "Parameter 'foo' is unexpected",
        ),
        (
            "{\"execute\":\"query-status\",\"arguments\":[]}",
            "GenericError",
            "QMP input member 'arguments' must be an object",
        ),
        ("{\"execute\":\"query-status\",\"foo\":1}", "GenericError", "QMP input member 'foo' is unexpected"),
        ("{\"execute\":5}", "GenericError", "QMP input member 'execute' must be a string"),
        ("{\"exec-oob\":\"query-status\"}", "GenericError", "QMP input member 'exec-oob' is unexpected"),
        ("{}", "GenericError", "QMP input lacks member 'execute'"),
        ("[]", "GenericError", "QMP input must be a JSON object"),
        ("5", "GenericError", "QMP input must be a JSON object"),
    ] {
        assert_eq!(ask(&mut session, &mut host, request), error(class, description), "{request}");
    }
    let found = ask(&mut session, &mut host, "{\"execute\":\"nosuch\",\"id\":null}");
    assert_eq!(found["id"], Value::Null);
    assert!(found.as_object().unwrap().contains_key("id"));
    for rubbish in ["nonsense", "]", "{\"execute\":query-status}"] {
        assert_eq!(ask(&mut session, &mut host, rubbish)["error"]["class"], "GenericError", "{rubbish}");
    }
}

#[test]
fn queries_have_the_shape_of_qemu() {
    let mut host = Fake::new(Mode::Replay);
    host.machine = Some(crate::machine::tests::machine(
        "-drive file=/nonexist,if=none,id=a,format=raw -device virtio-blk,drive=a,id=x",
    ));
    let mut session = negotiated(&mut host);
    let mut query = |name: &str| {
        ask(&mut session, &mut host, &format!("{{\"execute\":\"query-{name}\"}}"))["return"].take()
    };
    assert_eq!(query("status"), json!({"running": true, "singlestep": false, "status": "running"}));
    assert_eq!(query("replay"), json!({"mode": "play", "filename": "r.bin", "icount": 6_199_081}));
    assert_eq!(query("uuid")["UUID"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(query("name"), json!({}));
    assert_eq!(query("cpus-fast")[0]["thread-id"], 6790);
    let chardevs = json!([{"filename": "stdio", "frontend-open": true, "label": "serial0"}]);
    assert_eq!(query("chardev"), chardevs);
    let block = query("block");
    assert_eq!((&block[0]["device"], &block[0]["inserted"]["drv"]), (&json!("a"), &json!("raw")));
    let commands = query("commands");
    assert!(commands.as_array().unwrap().contains(&json!({"name": "replay-seek"})));
    assert!(query("version")["qemu"]["minor"].is_u64());
    let none = Fake::new(Mode::Plain);
    let mut session = negotiated(&mut host);
    host = none;
    let found = ask(&mut session, &mut host, "{\"execute\":\"query-replay\",\"id\":7}");
    assert_eq!(found, json!({"return": {"mode": "none", "icount": 6_199_081}, "id": 7}));
}

#[test]
fn a_late_answer_holds_up_what_follows() {
    let mut host = Fake::new(Mode::Plain);
    host.slow = true;
    let mut session = negotiated(&mut host);
    session.input(b"{\"execute\":\"stop\",\"id\":1}{\"execute\":\"query-status\",\"id\":2}", &mut host);
    assert_eq!(values(&mut session), [Value::Null; 0]);
    assert!(!session.wants_input());
    // An event may come first.
    session.notice(&Notice { what: What::Stop, unix_us: 1_500_000_001 });
    session.ticket_done(6, &mut host);
    session.ticket_done(7, &mut host);
    let found = values(&mut session);
    assert_eq!(found[0], json!({"event": "STOP", "timestamp": {"seconds": 1500, "microseconds": 1}}));
    assert_eq!(found[1], json!({"return": {}, "id": 1}));
    assert_eq!((&found[2]["id"], &found[2]["return"]["running"]), (&json!(2), &json!(false)));
    host.failure = Some("it could not".to_owned());
    host.status = RunStatus::Running;
    session.input(b"{\"execute\":\"stop\"}", &mut host);
    session.ticket_done(7, &mut host);
    assert_eq!(values(&mut session), [error("GenericError", "it could not")]);
}

#[test]
fn the_human_monitor_answers_inside() {
    let mut host = Fake::new(Mode::Plain);
    let mut session = negotiated(&mut host);
    let mut human = |line: &str| {
        let request = json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
        ask(&mut session, &mut host, &request.to_string())["return"].take()
    };
    assert_eq!(human("info status"), "VM status: running\r\n");
    assert_eq!(human("nosuch"), "unknown command: 'nosuch'\r\n");
    assert_eq!(human(""), "");
    assert_eq!(human("p 1+1"), "0x2\r\n");
    host.slow = true;
    let request = json!({"execute": "human-monitor-command", "arguments": {"command-line": "stop"}, "id": 3});
    session.input(request.to_string().as_bytes(), &mut host);
    session.ticket_done(7, &mut host);
    assert_eq!(values(&mut session), [json!({"return": "", "id": 3})]);
}

#[test]
fn inputs_become_offers_and_quit_ends() {
    let mut host = Fake::new(Mode::Plain);
    let mut session = negotiated(&mut host);
    for name in ["system_powerdown", "system_reset"] {
        let found = ask(&mut session, &mut host, &json!({"execute": name}).to_string());
        assert_eq!(found, json!({"return": {}}));
    }
    assert_eq!(host.offers, [Offer::PowerButton, Offer::Reset]);
    session.input(b"{\"execute\":\"quit\"}{\"execute\":\"stop\"}", &mut host);
    assert_eq!(values(&mut session), [json!({"return": {}})]);
    assert!(host.quit && !session.wants_input());
}

#[test]
fn events_and_pretty_answers() {
    let mut host = Fake::new(Mode::Plain);
    let mut session = negotiated(&mut host);
    for (what, name, data) in [
        (What::Resume, "RESUME", Value::Null),
        (What::Powerdown, "POWERDOWN", Value::Null),
        (What::Reset { guest: true }, "RESET", json!({"guest": true, "reason": "guest-reset"})),
        (What::Reset { guest: false }, "RESET", json!({"guest": false, "reason": "host-qmp-system-reset"})),
        (
            What::Job { id: "j".to_owned(), status: Status::Aborting },
            "JOB_STATUS_CHANGE",
            json!({"id": "j", "status": "aborting"}),
        ),
        (
            What::Shutdown { guest: false, reason: "host-qmp-quit" },
            "SHUTDOWN",
            json!({"guest": false, "reason": "host-qmp-quit"}),
        ),
    ] {
        session.notice(&Notice { what, unix_us: 0 });
        let event = values(&mut session).remove(0);
        assert_eq!((&event["event"], &event["data"]), (&json!(name), &data));
    }
    let mut pretty = Session::new(true);
    pretty.greet();
    assert!(String::from_utf8(pretty.take_output()).unwrap().lines().count() > 5);
}

#[test]
fn snapshots_are_jobs() {
    let mut host = Fake::new(Mode::Plain);
    host.slow = true;
    let mut session = negotiated(&mut host);
    let mut run = |name: &str, arguments: Value| {
        let request = json!({"execute": name, "arguments": arguments});
        ask(&mut session, &mut host, &request.to_string())
    };
    let job = |id: &str, tag: &str| json!({"job-id": id, "tag": tag, "vmstate": "", "devices": []});
    assert_eq!(run("snapshot-save", job("a", "s")), json!({"return": {}}));
    assert_eq!(run("snapshot-load", job("a", "s")), error("GenericError", "Job ID 'a' already in use"));
    assert_eq!(run("snapshot-load", job("1", "s")), error("GenericError", "Invalid job ID '1'"));
    assert!(run("snapshot-load", job("b", ""))["error"].is_object());
    assert_eq!(run("snapshot-load", job("b", "nosuch")), json!({"return": {}}));
    let wrong = json!({"job-id": "c", "tag": "s", "vmstate": "d", "devices": ["d"]});
    assert_eq!(run("snapshot-save", wrong), json!({"return": {}}));
    let wrong = json!({"job-id": "c", "tag": "s", "devices": ["d", 5]});
    let why = "Invalid parameter type for 'devices[1]', expected: string";
    assert_eq!(run("snapshot-delete", wrong), error("GenericError", why));
    let missing = json!({"job-id": "c", "tag": "s", "devices": []});
    assert_eq!(run("snapshot-save", missing), error("GenericError", "Parameter 'vmstate' is missing"));
    let jobs = run("query-jobs", json!({}))["return"].take();
    let status: Vec<_> = jobs.as_array().unwrap().iter().map(|job| (&job["status"], &job["error"])).collect();
    let absent = json!("Snapshot 'nosuch' does not exist in one or more devices");
    assert_eq!(status[0], (&json!("running"), &Value::Null));
    assert_eq!(status[1], (&json!("concluded"), &absent));
    assert_eq!(status[2], (&json!("concluded"), &json!("No block device node 'd'")));
    let running = "Job 'a' in state 'running' cannot accept command verb 'cancel'";
    assert_eq!(run("job-cancel", json!({"id": "a"})), error("GenericError", running));
    assert_eq!(run("job-dismiss", json!({"id": "b"})), json!({"return": {}}));
    assert_eq!(run("job-dismiss", json!({"id": "b"})), error("GenericError", "Job not found"));
}
