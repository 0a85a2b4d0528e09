//! Who a process is, from an image's own `/etc/passwd` and `/etc/group` (OCI image specification,
//! "User").

use crate::target::ID_COUNT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Who a process is, by the ids of its pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// Below [`ID_COUNT`].
    pub uid: u32,
    /// Below [`ID_COUNT`].
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A user with its home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// Its ids.
    pub user: User,
    /// The sixth field of its line in `/etc/passwd`; `/` where a number has no line.
    pub home: String,
}

/// Why a user is none of an image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum UserError {
    /// It is no number, and no line of `/etc/passwd` has its name.
    #[error("the image has no user `{user}` in /etc/passwd")]
    NoUser { user: String },
    /// Its line in `/etc/passwd` has no number as the user's or the group's id.
    #[error("user `{user}` has no valid id in /etc/passwd")]
    NoId { user: String },
    /// It is no number, and no line of `/etc/group` gives its name an id.
    #[error("the image has no group `{group}` in /etc/group")]
    NoGroup { group: String },
    /// The user's id, or the group's, is not below [`ID_COUNT`]. `user` is all that was asked for.
    #[error("user `{user}` is outside the {ID_COUNT} ids of a pod")]
    OutsidePod { user: String },
}

/// Resolves `user[:group]`, names or numbers; empty is root. The image's files come as texts.
///
/// # Errors
/// Which name the image does not know.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<Resolved, UserError> {
    let (name, group_name) = spec
        .split_once(':')
        .map_or((spec, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let account = account(name, passwd)?;
    let groups = || {
        group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 3)
    };
    let gid = match group_name {
        None | Some("") => account.gid,
        Some(wanted) => {
            // As with users: an image gives no other meaning to a number.
            let named = || {
                let mut named = groups().filter(|fields| fields[0] == wanted);
                named.find_map(|fields| fields[2].parse().ok())
            };
            let id = wanted.parse().ok().or_else(named);
            id.ok_or_else(|| UserError::NoGroup {
                group: wanted.to_owned(),
            })?
        }
    };
    // Supplementary groups count only where no group was asked for.
    let member = |fields: &Vec<&str>| {
        account.name.is_some_and(|user| {
            fields
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == user))
        })
    };
    let extra = match group_name {
        None => groups()
            .filter(member)
            .filter_map(|fields| fields[2].parse().ok())
            .filter(|id| *id != gid)
            .collect::<BTreeSet<u32>>(),
        Some(_) => BTreeSet::new(),
    };
    let outside = |id: &u32| *id >= ID_COUNT;
    if outside(&account.uid) || outside(&gid) || extra.iter().any(outside) {
        return Err(UserError::OutsidePod {
            user: spec.to_owned(),
        });
    }
    Ok(Resolved {
        user: User {
            uid: account.uid,
            gid,
            groups: extra.into_iter().collect(),
        },
        home: account.home,
    })
}

/// What is known of a user before its groups.
struct Account<'a> {
    uid: u32,
    gid: u32,
    home: String,
    /// None: it is a number that the image does not name.
    name: Option<&'a str>,
}

fn account<'a>(user: &str, passwd: &'a str) -> Result<Account<'a>, UserError> {
    let number: Option<u32> = user.parse().ok();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        // A number is an id, whatever an image calls its users: else one that calls its root `1000` has whoever was
        // declared to be 1000 run as root (CVE-2016-3697).
        .find(|fields| {
            fields.len() >= 6
                && match number {
                    Some(number) => fields[2].parse() == Ok(number),
                    None => fields[0] == user,
                }
        });
    match (&entry, number) {
        (Some(fields), _) => {
            let id = |text: &str| {
                text.parse::<u32>().map_err(|_| UserError::NoId {
                    user: user.to_owned(),
                })
            };
            Ok(Account {
                uid: id(fields[2])?,
                gid: id(fields[3])?,
                home: fields[5].to_owned(),
                name: Some(fields[0]),
            })
        }
        (None, Some(uid)) => Ok(Account {
            uid,
            gid: 0,
            home: "/".to_owned(),
            name: None,
        }),
        (None, None) => Err(UserError::NoUser {
            user: user.to_owned(),
        }),
    }
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

    /// CVE-2016-3697: an image that calls its root by a number gives it to nobody who asked for that number.
    #[test]
    fn a_number_is_an_id_whatever_the_image_calls_its_users() {
        let (passwd, group) = (
            "1000:x:0:0::/:\napp:x:1001:7::/app:\n",
            "1000:x:0:\n7:x:0:app\n",
        );
        let ids = |spec: &str| {
            let user = resolve(spec, passwd, group).expect(spec).user;
            (user.uid, user.gid)
        };
        assert_eq!(ids("1000"), (1000, 0));
        assert_eq!(ids("1000:1000"), (1000, 1000));
        assert_eq!(ids("app:7"), (1001, 7));
        assert_eq!(resolve("1000", passwd, group).expect("ids").home, "/");
    }

    #[test]
    fn unknown_ones_are_named() {
        assert!(
            resolve("nobody", PASSWD, GROUP)
                .expect_err("unknown")
                .to_string()
                .contains("`nobody`")
        );
        assert!(
            resolve("0:wheel", PASSWD, GROUP)
                .expect_err("unknown")
                .to_string()
                .contains("`wheel`")
        );
        assert!(resolve("70000", PASSWD, GROUP).is_err());
    }
}
