//! What Redis does for the gateways, and the names of its keys and channels.
//!
//! | Key or channel | |
//! |---|---|
//! | `P:meta` | hash: the epoch, what it holds for (replication id, evictions), and the limits of history |
//! | `P:log` | stream: one entry per send, whose ids are the positions; trimmed |
//! | `P:h:GROUP` | list: the kept events of a group, one more than may be kept, which tells that there were others |
//! | `P:e:GROUP` | string: the group has ended |
//! | `P:trial` | list: nothing |
//! | `P:gw:GATEWAY` | string: the generation of a gateway's connection; expires |
//! | `C:c:GROUP` | channel: what is sent to a group |
//! | `C:all` | channel: what is sent to several groups |
//! | `C:to:GATEWAY` | channel: requests and answers of other gateways |
//!
//! P is `REDIS_PREFIX`. A database has its own keys, but all databases of a server have the same channels: C is P for
//! database 0, and `P:@N` for database N. No prefix has an `@` in it.

/// Entries of the log: several seconds of a busy cluster, some 10 MB.
pub(super) const LOG_LENGTH: usize = 65_536;

/// Sends to groups: all or nothing, in one order.
///
/// Keys: log, gateway, and of each group its list and its mark. Arguments: tag, flags, lifetime of lists and marks in
/// milliseconds (0: nothing is kept, and marks live for a minute), most events in a list, prefix of channels; the names; the
/// frames; the connection's generation.
/// Answer: the id of the last event, and how many gateways have got it; 0: all groups have ended.
///
/// The generation keeps a send out that was left in an old connection: the gateway has asked already whether it was
/// applied. The usual send, of one event to one group, goes ahead without tables for several. A list may be longer by an
/// eighth before it is trimmed: not each send to a full one needs that.
pub(super) const SEND: &str = r"
local call, groups, last, prefix = redis.call, (#KEYS - 2) / 2, #ARGV, ARGV[5]
local marks
if groups == 1 then
  marks = call('MGET', KEYS[2], KEYS[4])
else
  local wanted = {KEYS[2]}
  for i = 1, groups do wanted[i + 1] = KEYS[2 + 2 * i] end
  marks = call('MGET', unpack(wanted))
end
if marks[1] ~= ARGV[last] then return redis.error_reply('FENCED the gateway is not registered') end
local id
if last == 8 and groups == 1 and (ARGV[2] == '0' or ARGV[2] == '1') then
  if marks[2] then return 0 end
  id = call('XADD', KEYS[1], 'MAXLEN', '~', '65536', '*', 's', ARGV[1], 'g', ARGV[6])
  if #id < 20 then
    local entry = id .. ' ' .. ARGV[2] .. ' ' .. ARGV[7]
    if ARGV[2] == '0' and ARGV[3] ~= '0' then
      if call('RPUSH', KEYS[3], entry) > ARGV[4] * 1.125 then call('LTRIM', KEYS[3], -ARGV[4], -1) end
      call('PEXPIRE', KEYS[3], ARGV[3])
    end
    return id .. ' ' .. call('PUBLISH', prefix .. ':c:' .. ARGV[6], entry)
  end
end
local names, lists, ends = {}, {}, {}
for i = 1, groups do
  if not marks[i + 1] then
    names[#names + 1], lists[#lists + 1], ends[#ends + 1] = ARGV[5 + i], KEYS[1 + 2 * i], KEYS[2 + 2 * i]
  end
end
if #names == 0 then return 0 end
local flags, count = tonumber(ARGV[2]), last - 6 - groups
local function subscribers()
  local channels, sum = {}, 0
  for i, name in ipairs(names) do channels[i] = prefix .. ':c:' .. name end
  local counts = call('PUBSUB', 'NUMSUB', unpack(channels))
  for i = 2, #counts, 2 do sum = sum + counts[i] end
  return sum
end
if flags >= 32 then return ' ' .. subscribers() end
local all = table.concat(ARGV, '\n', 6, 5 + groups)
id = id or call('XADD', KEYS[1], 'MAXLEN', '~', '65536', '*', 's', ARGV[1], 'g', all)
local ids = {id}
if count > 1 or #id > 19 then
  local dash = string.find(id, '-', 1, true)
  local ms, seq = string.sub(id, 1, dash), tonumber(string.sub(id, dash + 1))
  if seq + count > 200000 then ms, seq = string.format('%.0f-', tonumber(string.sub(ms, 1, -2)) + 1), 0 end
  for i = 1, math.max(count, 1) do ids[i] = ms .. string.format('%.0f', seq + i - 1) end
  if ids[#ids] ~= id then call('XADD', KEYS[1], ids[#ids], 's', ARGV[1], 'g', all) end
end
local entries = {}
for i = 1, #ids do
  local flag = i < #ids and flags % 2 + 8 or flags
  entries[i] = ids[i] .. ' ' .. flag .. ' ' .. (count > 0 and ARGV[5 + groups + i] or '')
end
if count > 0 and flags % 2 == 0 and ARGV[3] ~= '0' then
  for _, list in ipairs(lists) do
    if call('RPUSH', list, unpack(entries)) > ARGV[4] * 1.125 then call('LTRIM', list, -ARGV[4], -1) end
    call('PEXPIRE', list, ARGV[3])
  end
end
if flags % 8 >= 4 then
  local lifetime = ARGV[3] ~= '0' and ARGV[3] or '60000'
  for _, mark in ipairs(ends) do call('SET', mark, '1', 'PX', lifetime) end
  for _, name in ipairs(names) do call('PUBLISH', prefix .. ':all', 'E' .. name) end
end
local reached = 0
if #names == 1 then
  for _, entry in ipairs(entries) do reached = call('PUBLISH', prefix .. ':c:' .. names[1], entry) end
else
  reached = subscribers()
  local head = 'G' .. table.concat(names, '\n') .. '\n\n'
  for _, entry in ipairs(entries) do call('PUBLISH', prefix .. ':all', head .. entry) end
end
return ids[#ids] .. ' ' .. reached
";

/// The newest events of groups. Keys: log, and of each group its list and its mark. Arguments: most bytes of all events
/// together (the first group has one in any case); most events of a group. Answer: the newest position, the time in
/// milliseconds; and of each group whether it has ended, the ids of the oldest event in the list, of the newest one that is
/// more than there may be, and of the newest one that had no room here (0-0: there is none), and the events, newest first.
///
/// Redis closes a connection with too much to read, 32 MB by default: so one group may be read in part, and of the groups
/// behind it nothing.
pub(super) const READ: &str = r"
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local time = redis.call('TIME')
local found, room = {newest and newest[1] or '0-0', time[1] * 1000 + math.floor(time[2] / 1000)}, tonumber(ARGV[1])
local function id_of(entry) return entry and string.match(entry, '^[^ ]+') or '0-0' end
for i = 2, #KEYS, 2 do
  local list, entries, behind, omitted = KEYS[i], {}, 0
  repeat
    local some = redis.call('LRANGE', list, -behind - 16, -behind - 1)
    for n = #some, 1, -1 do
      room = room - #some[n]
      if room < 0 and (i > 2 or #entries > 0) then
        omitted = some[n]
        break
      end
      entries[#entries + 1] = some[n]
    end
    behind = behind + 16
  until omitted or #some < 16
  found[#found + 1] = redis.call('EXISTS', KEYS[i + 1])
  found[#found + 1] = id_of(redis.call('LRANGE', list, 0, 0)[1])
  found[#found + 1] = id_of(redis.call('LRANGE', list, -ARGV[2] - 1, -ARGV[2] - 1)[1])
  found[#found + 1] = id_of(omitted)
  found[#found + 1] = entries
end
return found
";

/// A page of what is kept of groups. Keys: log, and of each group its list. Arguments: most events of a group, bytes of each
/// group's part; of each group the id behind which its events are wanted. Answer: the newest position; and of each group the
/// oldest id if those before it may have been dropped (0-0: none was), whether its part is not all, and the events, one at
/// least if there is any.
pub(super) const PAGE: &str = r"
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local found, room = {newest and newest[1] or '0-0'}, tonumber(ARGV[2])
local function numbers(text)
  local ms, seq = string.match(text, '^(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
for i = 2, #KEYS do
  local list, ms, seq = KEYS[i], numbers(ARGV[i + 1])
  local function at(index) return redis.call('LRANGE', list, index, index)[1] end
  local function is_wanted(index)
    local entry = at(index)
    if not entry then return true end
    local entry_ms, entry_seq = numbers(entry)
    return entry_ms > ms or (entry_ms == ms and entry_seq > seq)
  end
  local low, high = 0, 1
  while not is_wanted(high) do low, high = high + 1, high * 2 end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_wanted(middle) then high = middle else low = middle + 1 end
  end
  local entries, bytes, is_cut = {}, 0, 0
  repeat
    local some = redis.call('LRANGE', list, low, low + 15)
    for _, entry in ipairs(some) do
      bytes = bytes + #entry
      if bytes > room and #entries > 0 then
        is_cut = 1
        break
      end
      entries[#entries + 1] = entry
    end
    low = low + 16
  until is_cut == 1 or #some < 16
  local dropped = at(ARGV[1]) and at(0)
  found[#found + 1] = dropped and string.match(dropped, '^[^ ]+') or '0-0'
  found[#found + 1] = is_cut
  found[#found + 1] = entries
end
return found
";

/// Begins a connection. Keys: meta, log, gateway, and one that only serves to try what the others need: a user that lacks a
/// right is refused here, and not at the first send. Arguments: an epoch, in case that a new one begins; replication id,
/// number of evictions; limits of history (milliseconds, events); generation of the connection, its lifetime; length of
/// the log; channel of all; the replication id of the last server, and the time of the last
/// send that it has accepted from this gateway.
/// Answer: epoch, limits, newest position.
///
/// A send that another server has accepted after the epoch has begun here is lost: that one had been replaced already. So
/// another epoch begins.
pub(super) const OPEN: &str = r"
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'source', 'age', 'events', 'since')
local began = meta[1]
redis.call('GET', KEYS[3])
local source = ARGV[2] .. ' ' .. ARGV[3]
if not meta[1] then
  redis.call('HSET', KEYS[1], 'age', ARGV[4], 'events', ARGV[5])
  meta = {ARGV[1], source, ARGV[4], ARGV[5]}
elseif meta[2] ~= source then
  meta[1] = ARGV[1]
elseif ARGV[10] ~= ARGV[2] and meta[5] and tonumber(ARGV[11]) > tonumber(meta[5]) then
  meta[1] = ARGV[1]
end
redis.call('HSET', KEYS[1], 'epoch', meta[1], 'source', source)
redis.call('RPUSH', KEYS[4], '1')
redis.call('LTRIM', KEYS[4], -1, -1)
redis.call('PEXPIRE', KEYS[4], 1000)
redis.call('LRANGE', KEYS[4], 0, -1)
redis.call('MGET', KEYS[3])
redis.call('HGET', KEYS[1], 'epoch')
redis.call('EXISTS', KEYS[3])
redis.call('TIME')
redis.call('PUBSUB', 'NUMSUB', ARGV[9])
redis.call('PUBLISH', ARGV[9], 'T')
redis.call('SET', KEYS[3], ARGV[6], 'PX', ARGV[7])
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', 'h', '')
redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
if began ~= meta[1] then redis.call('HSET', KEYS[1], 'since', string.match(id, '%d+')) end
return {meta[1], meta[3], meta[4], id}
";

/// Keeps a gateway registered. It writes, as a master that was replaced still answers a PING; without memory it can only
/// do so as long as it is registered. Keys: meta, log, gateway. Arguments: generation, lifetime, length of the log. Answer:
/// epoch, newest position.
pub(super) const BEAT: &str = r"
local generation = redis.call('GET', KEYS[3])
if generation and generation ~= ARGV[1] then return redis.error_reply('FENCED by a newer connection') end
if generation then
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
else
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
end
local id = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'h', '')
if type(id) == 'table' then
  if not string.find(id.err, 'OOM ', 1, true) then return id end
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  id = newest and newest[1] or '0-0'
end
return {redis.call('HGET', KEYS[1], 'epoch') or '', id}
";

/// Whether anything is kept of groups, or a gateway follows one of them. Keys: of each group its list and its mark.
/// Arguments: their channels. Answer: 1 if so, else 0.
pub(super) const ALIVE: &str = r"
if redis.call('EXISTS', unpack(KEYS)) > 0 then return 1 end
local counts = redis.call('PUBSUB', 'NUMSUB', unpack(ARGV))
for i = 2, #counts, 2 do
  if counts[i] > 0 then return 1 end
end
return 0
";

/// All scripts, in the order of [`Script`].
pub(super) const SCRIPTS: [&str; 6] = [SEND, READ, PAGE, OPEN, BEAT, ALIVE];

/// The index of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Send,
    Read,
    Page,
    Open,
    Beat,
    Alive,
}

/// Names of keys and channels.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    channels: String,
    log: String,
}

impl Names {
    pub(super) fn new(prefix: &str, database: u32) -> Self {
        let channels = if database == 0 { prefix.to_owned() } else { format!("{prefix}:@{database}") };
        Self { prefix: prefix.to_owned(), channels, log: format!("{prefix}:log") }
    }

    /// What all channels begin with.
    pub(super) fn channels(&self) -> &str {
        &self.channels
    }

    pub(super) fn meta(&self) -> String {
        format!("{}:meta", self.prefix)
    }

    pub(super) fn log(&self) -> &str {
        &self.log
    }

    pub(super) fn trial(&self) -> String {
        format!("{}:trial", self.prefix)
    }

    /// The parts of the name of a group's list.
    pub(super) fn history<'a>(&'a self, group: &'a str) -> [&'a str; 3] {
        [&self.prefix, ":h:", group]
    }

    /// The parts of the name of the mark of a group's end.
    pub(super) fn end<'a>(&'a self, group: &'a str) -> [&'a str; 3] {
        [&self.prefix, ":e:", group]
    }

    pub(super) fn gateway(&self, gateway: u32) -> String {
        format!("{}:gw:{gateway:08x}", self.prefix)
    }

    pub(super) fn channel(&self, group: &str) -> String {
        format!("{}:c:{group}", self.channels)
    }

    pub(super) fn all(&self) -> String {
        format!("{}:all", self.channels)
    }

    pub(super) fn inbox(&self, gateway: u32) -> String {
        format!("{}:to:{gateway:08x}", self.channels)
    }

    /// The group of a channel.
    pub(super) fn group_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(channel.strip_prefix(self.channels.as_bytes())?.strip_prefix(b":c:")?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_trim_the_log_to_its_length() {
        assert_eq!(SEND.matches(&format!("'MAXLEN', '~', '{LOG_LENGTH}'")).count(), SEND.matches("MAXLEN").count());
    }
}
