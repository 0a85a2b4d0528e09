//! Names of stacks: two projects with a `db` never meet, unless one asks for the other's by name.

use super::{SERVER, addresses, ask, of_pod};
use tank_tests::{Host, sleeper};

#[test]
fn each_stack_has_its_own_db_and_finds_anothers_only_by_its_full_name() {
    let host = Host::new();
    let pods = format!("{} {}", sleeper("web"), sleeper("db"));
    for stack in ["blog", "shop"] {
        let text = format!("{{ stack = \"{stack}\", {pods} pods.db.aliases.data = {{}} }}");
        host.write(&format!("{stack}.ncl"), &text);
        host.tank(&["switch", &format!("{stack}.ncl")]).ok();
    }
    host.write("alone.ncl", &format!("{{ {pods} }}"));
    host.tank(&["switch", "alone.ncl"]).ok();
    let address = |pod: &str| vec![of_pod(&host, pod).0];
    let (blog, shop, alone) = (address("blog:db"), address("shop:db"), address("db"));
    assert!(blog != shop && shop != alone && alone != blog);
    for (pod, own) in [("blog:web", &blog), ("shop:web", &shop), ("web", &alone)] {
        assert_eq!(&addresses(&host, pod, "db"), own, "{pod}");
        assert_eq!(&addresses(&host, pod, "db.tank.internal"), own, "{pod}");
        // Explicitly, everybody's: but who belongs to no stack has no such name.
        assert_eq!(addresses(&host, pod, "db.blog"), blog, "{pod}");
        assert_eq!(addresses(&host, pod, "data.shop.tank.internal"), shop);
    }
    assert_eq!(addresses(&host, "blog:web", "data"), blog);
    assert_eq!(addresses(&host, "web", "data"), Vec::<String>::new());
    // By the resolver of the pod itself.
    let shown = host.exec("blog:web", "nslookup db | tail -n +3");
    assert!(
        shown.contains(&blog[0]) && !shown.contains(&shop[0]),
        "{shown}"
    );
    // An address has its name as the one who asks would write it.
    let octets: Vec<&str> = shop[0].split('.').collect();
    let reverse = format!(
        "{}.{}.{}.{}.in-addr.arpa",
        octets[3], octets[2], octets[1], octets[0]
    );
    for (pod, name) in [
        ("shop:web", "db.tank.internal"),
        ("blog:web", "db.shop.tank.internal"),
        ("web", "db.shop.tank.internal"),
    ] {
        let answer = ask(&host, pod, &[SERVER, &reverse, "PTR"]);
        assert_eq!(answer["answers"][0], name, "{pod}");
    }
    host.finish();
}
