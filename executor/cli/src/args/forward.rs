//! The arguments of `port-forward`.

use clap::Args as ClapArgs;

#[derive(ClapArgs, Debug)]
pub struct PortForward {
    /// The pod.
    pub pod: String,
    /// The ports: `80` the same one here, `8080:80` another one, `:80` whichever is free.
    #[arg(required = true, value_name = "[PORT:]PORT", value_parser = ports)]
    pub ports: Vec<Ports>,
}

/// A port of this machine, and the one of a pod that it leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// None: one that is free.
    pub local: Option<u16>,
    pub pod: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!(
            "`{text}` is no port: write a number from 1 to 65535"
        )),
    };
    let (local, pod) = match text.split_once(':') {
        None => (text, text),
        Some((_, pod)) if pod.contains(':') => {
            return Err("write PORT, PORT:PORT or :PORT; it listens on loopback alone".to_owned());
        }
        Some(both) => both,
    };
    Ok(Ports {
        pod: port(pod)?,
        local: match local {
            "" | "0" => None,
            local => Some(port(local)?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_the_same_one_another_or_a_free_one() {
        let of = |local, pod| Ok(Ports { local, pod });
        assert_eq!(ports("80"), of(Some(80), 80));
        assert_eq!(ports("8080:80"), of(Some(8080), 80));
        assert_eq!(ports(":80"), of(None, 80));
        assert_eq!(ports("0:80"), of(None, 80));
        for wrong in [
            "",
            ":",
            "80:",
            "0",
            "65536",
            "-1",
            "http",
            "127.0.0.1:8080:80",
            "80/udp",
        ] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
