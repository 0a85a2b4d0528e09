//! Packets that no program's socket would send.

/// What scripts of Python begin with that make packets themselves: `sum16(bytes)`, the sum of RFC 1071;
/// `ip(source, to, protocol, payload, limit)`, a packet of either family; `pseudo(source, to, protocol, length)`,
/// what is summed before a payload.
pub const HEADERS: &str = r#"
import ipaddress, socket, struct, sys
def sum16(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def ip(a, b, protocol, payload, limit=64):
    a, b = map(ipaddress.ip_address, (a, b))
    if a.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, limit) + a.packed + b.packed + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, limit, protocol, 0, a.packed, b.packed)
    return head[:10] + struct.pack("!H", sum16(head)) + head[12:] + payload
def pseudo(a, b, protocol, length):
    a, b = map(ipaddress.ip_address, (a, b))
    return a.packed + b.packed + (struct.pack("!II", length, protocol) if a.version == 6 else struct.pack("!BBH", 0, protocol, length))
"#;
