//! Who a process is, from an image's own `/etc/passwd` and `/etc/group` (OCI image specification,
//! "User").

use tank_proto::shim::User;

/// A user with its home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    pub user: User,
    pub home: String,
}

/// Resolves `user[:group]`, names or numbers; empty is root. Pure: the files come as texts.
///
/// # Errors
/// Which name the image does not know.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<Resolved, String> {
    let (name, group_name) = spec
        .split_once(':')
        .map_or((spec, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| {
            fields.len() >= 6
                && (fields[0] == name || number.is_some() && fields[2].parse().ok() == number)
        });
    let (uid, gid, home, known) = match (&entry, number) {
        (Some(fields), _) => {
            let id = |text: &str| {
                text.parse::<u32>()
                    .map_err(|_| format!("user `{name}` has no valid id in /etc/passwd"))
            };
            (
                id(fields[2])?,
                id(fields[3])?,
                fields[5].to_owned(),
                Some(fields[0]),
            )
        }
        (None, Some(uid)) => (uid, 0, "/".to_owned(), None),
        (None, None) => return Err(format!("the image has no user `{name}` in /etc/passwd")),
    };
    let groups = || {
        group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 3)
    };
    let gid = match group_name {
        None | Some("") => gid,
        Some(wanted) => {
            let found = groups()
                .find(|fields| fields[0] == wanted)
                .and_then(|fields| fields[2].parse().ok());
            let numbered = wanted.parse().ok();
            found
                .or(numbered)
                .ok_or_else(|| format!("the image has no group `{wanted}` in /etc/group"))?
        }
    };
    // Supplementary groups count only where no group was asked for.
    let member = |fields: &Vec<&str>| {
        known.is_some_and(|user| {
            fields
                .get(3)
                .is_some_and(|m| m.split(',').any(|m| m == user))
        })
    };
    let extra: Vec<u32> = match group_name {
        None => groups()
            .filter(member)
            .filter_map(|fields| fields[2].parse().ok())
            .filter(|id| *id != gid)
            .collect(),
        Some(_) => Vec::new(),
    };
    if uid >= tank_sys::namespace::ID_COUNT || gid >= tank_sys::namespace::ID_COUNT {
        return Err(format!(
            "user `{spec}` is outside the {} ids of a pod",
            tank_sys::namespace::ID_COUNT
        ));
    }
    Ok(Resolved {
        user: User {
            uid,
            gid,
            groups: extra,
        },
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nadm:x:4:syslog,www-data\n";

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(spec, PASSWD, GROUP).expect(spec).user;
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn names_and_numbers_resolve() {
        assert_eq!(ids(""), (0, 0, vec![]));
        assert_eq!(ids("www-data"), (33, 33, vec![4]));
        assert_eq!(ids("33"), (33, 33, vec![4]));
        assert_eq!(ids("www-data:adm"), (33, 4, vec![]));
        assert_eq!(ids("1000:1000"), (1000, 1000, vec![]));
        assert_eq!(
            resolve("www-data", PASSWD, GROUP).expect("known").home,
            "/var/www"
        );
    }

    #[test]
    fn unknown_ones_are_named() {
        assert!(
            resolve("nobody", PASSWD, GROUP)
                .expect_err("unknown")
                .contains("`nobody`")
        );
        assert!(
            resolve("0:wheel", PASSWD, GROUP)
                .expect_err("unknown")
                .contains("`wheel`")
        );
        assert!(resolve("70000", PASSWD, GROUP).is_err());
    }
}
