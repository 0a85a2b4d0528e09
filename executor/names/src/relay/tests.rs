use super::*;
use crate::answer::{Answers, Transport, Verdict};
use hickory_proto::{
    op::{Edns, Message, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, MX, NULL, SOA},
    },
};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use tank_plan::target::Zone;
use tank_plan::target::names::Client;

const ID: u16 = 0x1234;

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

/// An answer with a record of its own kind.
fn message(ttl: u32) -> Message {
    let mut message = Message::response(ID, OpCode::Query);
    message.add_query(Query::query(name("a.example."), RecordType::A));
    let data = RData::A(A(Ipv4Addr::LOCALHOST));
    message.add_answer(Record::from_rdata(name("a.example."), ttl, data));
    message
}

/// An answer that holds so long and has so many bytes of data.
pub fn answer(ttl: u32, bytes: usize) -> Answer {
    let mut message = Message::response(ID, OpCode::Query);
    message.add_query(Query::query(name("a.example."), RecordType::NULL));
    let data = RData::NULL(NULL::with(vec![7; bytes]));
    message.add_answer(Record::from_rdata(name("a.example."), ttl, data));
    read_message(&message)
}

fn received(message: &Message) -> Received {
    let bytes = message.to_vec().expect("bytes");
    let asked = question(&bytes).expect("a question").to_vec();
    read(&bytes, ID, &asked)
}

fn read_message(message: &Message) -> Answer {
    match received(message) {
        Received::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// What a client is to be asked for.
fn frame(asked: &str, edns: Option<u16>, transport: Transport) -> Frame {
    let client = IpAddr::from([10, 90, 0, 2]);
    let mut zone = Zone::default();
    zone.clients.insert(client, Client::default());
    let mut query = Message::query();
    query.metadata.id = 7;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name(asked), RecordType::A));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(true);
        query.set_edns(edns);
    }
    let bytes = query.to_vec().expect("bytes");
    let answers = Answers::new(zone).expect("a zone");
    match answers.decide(client, &bytes, transport) {
        Verdict::Forward(forward) => forward.frame,
        Verdict::Silence | Verdict::Reply(_) => panic!("it is not forwarded"),
    }
}

#[test]
fn a_reply_says_what_the_answer_said_to_the_clients_own_question() {
    let mut answered = message(300);
    answered.metadata.authentic_data = true;
    answered.metadata.authoritative = true;
    let soa = SOA::new(name("example."), name("h.example."), 1, 2, 3, 4, 5);
    answered.add_authority(Record::from_rdata(name("example."), 200, RData::SOA(soa)));
    let data = RData::MX(MX::new(10, name("mail.a.example.")));
    answered.add_additional(Record::from_rdata(name("a.example."), 100, data));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    answered.set_edns(edns);
    let read = read_message(&answered);
    for (edns, options) in [(None, 0), (Some(4096), 1)] {
        let reply = read.reply(&frame("A.eXample.", edns, Transport::Udp), 150);
        let reply = Message::from_vec(&reply).expect("a message");
        assert_eq!(reply.metadata.id, 7);
        assert!(reply.metadata.recursion_available && reply.metadata.authentic_data);
        assert!(!reply.metadata.authoritative && !reply.metadata.truncation);
        assert_eq!(reply.queries[0].name.to_ascii(), "A.eXample.");
        let ttls = [&reply.answers, &reply.authorities, &reply.additionals]
            .map(|records| records.iter().map(|record| record.ttl).collect::<Vec<_>>());
        assert_eq!(ttls, [vec![150], vec![50], vec![0]]);
        let data = |records: &[Record]| records.iter().map(|r| r.data.clone()).collect::<Vec<_>>();
        assert_eq!(data(&reply.authorities), data(&answered.authorities));
        assert_eq!(data(&reply.additionals), data(&answered.additionals));
        assert_eq!(reply.edns.iter().count(), options);
        assert!(reply.edns.is_none_or(|edns| edns.flags().dnssec_ok));
    }
}

#[test]
fn what_does_not_fit_is_asked_for_again_over_tcp() {
    let large = answer(60, 2_000);
    let reply = large.reply(&frame("a.example.", Some(4096), Transport::Udp), 0);
    let reply = Message::from_vec(&reply).expect("a message");
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    assert_eq!(reply.edns.expect("as asked").max_payload(), 1232);
    let reply = large.reply(&frame("a.example.", None, Transport::Tcp), 0);
    let reply = Message::from_vec(&reply).expect("a message");
    assert!(!reply.metadata.truncation && reply.answers.len() == 1);
}

#[test]
fn only_the_answer_to_what_was_asked_is_one() {
    let bytes = message(60).to_vec().expect("bytes");
    let asked = question(&bytes).expect("a question").to_vec();
    assert!(matches!(read(&bytes, ID, &asked), Received::Answer(_)));
    let case = asked.to_ascii_uppercase();
    assert!(matches!(read(&bytes, ID, &case), Received::Answer(_)));
    let mut other = asked.clone();
    other[1] = b'b';
    for (id, asked) in [(ID + 1, &asked), (ID, &other)] {
        assert!(matches!(read(&bytes, id, asked), Received::Nothing));
    }
    for (at, bit) in [(2, RESPONSE), (2, 0x08), (5, 2)] {
        let mut wrong = bytes.clone();
        wrong[at] ^= bit;
        assert!(
            matches!(read(&wrong, ID, &asked), Received::Nothing),
            "{at}"
        );
    }
    // None of it is missing.
    for length in 0..bytes.len() {
        let cut = read(&bytes[..length], ID, &asked);
        assert!(matches!(cut, Received::Nothing), "{length}");
    }
    let mut truncated = message(60);
    truncated.metadata.truncation = true;
    assert!(matches!(received(&truncated), Received::Truncated));
}

#[test]
fn it_holds_as_long_as_it_says() {
    assert_eq!(read_message(&message(60)).ttl(), 60);
    assert_eq!(read_message(&message(0)).ttl(), 0);
    assert_eq!(read_message(&message(86_400)).ttl(), MAX_TTL);
    assert_eq!(read_message(&message(u32::MAX)).ttl(), 0, "it is none");
    let mut nothing = message(60);
    nothing.answers.clear();
    assert_eq!(read_message(&nothing).ttl(), 0, "nobody says how long");
    let soa = SOA::new(name("example."), name("example."), 1, 1, 1, 1, 30);
    nothing.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        nothing.metadata.response_code = code;
        let read = read_message(&nothing);
        assert_eq!((read.ttl(), read.settles()), (30, true));
    }
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        nothing.metadata.response_code = code;
        let read = read_message(&nothing);
        assert_eq!((read.ttl(), read.settles()), (0, false));
    }
    // A code that is half in the OPT record.
    nothing.metadata.response_code = ResponseCode::BADVERS;
    nothing.set_edns(Edns::new());
    let read = read_message(&nothing);
    assert_eq!((read.ttl(), read.settles()), (0, false));
}

/// Records whose names are short where they are sent, and 250 bytes where they are
/// read: they take no more memory than they were sent with, but for where their times to live are.
#[test]
fn names_that_refer_to_others_cost_what_they_take() {
    const RECORDS: u16 = 4_000;
    let mut bytes = message(60).to_vec().expect("bytes");
    let asked = question(&bytes).expect("a question").to_vec();
    bytes.truncate(HEADER + asked.len());
    bytes[6..8].copy_from_slice(&RECORDS.to_be_bytes());
    let [high, low] = (0xc000 | bytes.len() as u16).to_be_bytes();
    let long = [b"\x01x".repeat(120), vec![0]].concat();
    // Type MX, class IN, a time to live, a length, a preference, the exchange.
    let fixed = |length| [0, 15, 0, 1, 0, 0, 0, 60, 0, length, 0, 1];
    bytes.extend([long, fixed(4).to_vec(), vec![high, low]].concat());
    for _ in 1..RECORDS {
        bytes.extend([&[high, low], &fixed(4)[..], &[high, low]].concat());
    }
    assert!(bytes.len() > 60_000 && bytes.len() < 65_536);
    let Received::Answer(answer) = read(&bytes, ID, &asked) else {
        panic!("it is an answer")
    };
    assert!(answer.size() < bytes.len() + bytes.len() / 4);
    let reply = answer.reply(&frame("a.example.", None, Transport::Tcp), 0);
    assert_eq!(reply[HEADER..], bytes[HEADER..]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is received, there is no panic, and what is an answer makes a reply of a bounded size.
    #[test]
    fn any_bytes_are_borne(
        tail in prop::collection::vec(any::<u8>(), 0..200),
        flags in any::<[u8; 2]>(),
        counts in prop::array::uniform3(0u16..4),
        age in any::<u32>(),
    ) {
        let whole = message(60).to_vec().expect("bytes");
        let asked = question(&whole).expect("a question").to_vec();
        let mut bytes = ID.to_be_bytes().to_vec();
        bytes.extend([flags[0] & 7 | RESPONSE, flags[1], 0, 1]);
        counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
        bytes.extend(&asked);
        bytes.extend(&tail);
        if let Received::Answer(answer) = read(&bytes, ID, &asked) {
            let reply = answer.reply(&frame("a.example.", Some(900), Transport::Udp), age);
            prop_assert!(reply.len() <= 900);
            prop_assert_eq!(&reply[..2], &[0, 7]);
        }
    }
}
