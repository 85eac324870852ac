"""The Lua scripts of events.py and deliveries.py. Redis runs each of them atomically.

An event's number is both the member and the score in each sorted set: microseconds are exact as a score until 2255.
"""

DOCUMENTS = "lw:events:documents"  # hash: number -> the event as JSON

# KEYS: ready, streams to rebuild, deleted, keys of the stream, documents, reserved, open, log, log of the stream, last.
# ARGV: key, stream. Each event in the log has its key, so fewer keys are a damage.
# Numbers only grow, even if the clock steps back. A number a year ahead is junk.
RESERVE = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {'rebuilding'} end
if redis.call('EXISTS', KEYS[3]) == 1 then return {'deleted'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local note = time[1] .. ':' .. ARGV[2] .. ':' .. ARGV[1]
local known = redis.call('HGET', KEYS[4], ARGV[1])
if known then
  if not string.match(known, '^[1-9]%d+$') or #known ~= 16 then return {'damaged'} end
  if redis.call('HEXISTS', KEYS[5], known) == 1 then return {'done', known} end
  if redis.call('HEXISTS', KEYS[6], known) == 1 then
    redis.call('HSET', KEYS[6], known, note)
    return {'open', known}
  end
end
if redis.call('HLEN', KEYS[4]) < redis.call('ZCARD', KEYS[9]) then return {'damaged'} end
local number = now
local open, log = redis.call('ZRANGE', KEYS[7], -1, -1), redis.call('ZRANGE', KEYS[8], -1, -1)
local tops = {open[1] or '', log[1] or '', redis.call('GET', KEYS[10]) or ''}
for at = 1, 3 do
  local top = tonumber(tops[at])
  if top and top >= number and top < now + 31536000000000 then number = top + 1 end
end
local text = string.format('%.0f', number)
redis.call('ZADD', KEYS[7], text, text)
redis.call('HSET', KEYS[6], text, note)
redis.call('HSET', KEYS[4], ARGV[1], text)
redis.call('SET', KEYS[10], text)
return {'new', text}
"""
# KEYS: as of RESERVE without `last`; for a webhook also: due deliveries, pending of the watch,
# pending of the stream, deliveries of the stream. ARGV: number, document, key, then: item of the agenda, delivery.
# Returns 1: it is in the log; 0: its reservation was lost; -1: its stream was deleted; -2: lost in a rebuild.
COMMIT = """
local held = redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then return -1 end
if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 then return 1 end
if held == 0 then
  if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return -2 end
  return 0
end
redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[4], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[8], ARGV[1], ARGV[1])
redis.call('ZADD', KEYS[9], ARGV[1], ARGV[1])
if ARGV[4] then
  local now = redis.call('TIME')[1]
  redis.call('ZADD', KEYS[10], 'LT', now, ARGV[4])
  redis.call('ZADD', KEYS[11], now, ARGV[1])
  redis.call('ZADD', KEYS[12], ARGV[1], ARGV[1])
  redis.call('HSET', KEYS[13], ARGV[1], ARGV[5])
end
return 1
"""
# KEYS: reserved, open, keys of the stream. ARGV: number, key. The key may be published again.
DROP = """
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if KEYS[3] and redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[2]) end
return 1
"""
# KEYS: reserved, open. ARGV: age in seconds. Returns (number, note) of reservations that are older, or have no note. A
# clock that stepped back makes them old too. Notes without a reservation are removed.
FIND_STALE = """
local now, found = redis.call('TIME')[1], {}
for _, number in ipairs(redis.call('ZRANGE', KEYS[2], 0, 199)) do
  local note = redis.call('HGET', KEYS[1], number)
  local since = note and tonumber(string.match(note, '^(%d+):'))
  if not since or math.abs(now - since) > tonumber(ARGV[1]) then
    found[#found + 1] = number
    found[#found + 1] = note or ''
  end
end
if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then
  for _, number in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not redis.call('ZSCORE', KEYS[2], number) then redis.call('HDEL', KEYS[1], number) end
  end
end
return found
"""
# KEYS: ready, streams to rebuild, open, log (of all, or of a stream), documents.
# ARGV: exclusive bounds, count, 1: newest first.
# Nothing at or above the lowest open reservation is shown, because it may still be committed.
READ = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {'rebuilding'} end
local high = ARGV[2]
local open = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if open[2] and (high == '+inf' or tonumber(open[2]) < tonumber(high)) then high = open[2] end
if high ~= '+inf' then high = '(' .. high end
local numbers
if ARGV[4] == '1' then
  numbers = redis.call('ZRANGE', KEYS[4], high, '(' .. ARGV[1], 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[3])
else
  numbers = redis.call('ZRANGE', KEYS[4], '(' .. ARGV[1], high, 'BYSCORE', 'LIMIT', 0, ARGV[3])
end
if #numbers == 0 then return {'read', {}, {}} end
return {'read', numbers, redis.call('HMGET', KEYS[5], unpack(numbers))}
"""
# KEYS: ready, streams to rebuild, open, last. Returns the number up to which all is committed.
HORIZON = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {'rebuilding'} end
local open = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if open[2] then return {'read', string.format('%.0f', math.max(open[2] - 1, 1000000000000000))} end
local time = redis.call('TIME')
local now, last = time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[4]) or 0) or 0
if last < 1000000000000000 or last > now + 31536000000000 then last = now - 1 end
return {'read', string.format('%.0f', last)}
"""
# KEYS: log, documents, log of the stream, keys of the stream, last. ARGV: (number, key, document)...
# Of two events with one key the later counts: the earlier one lost its reservation, and no reader has seen it.
RESTORE = """
for at = 1, #ARGV, 3 do
  local number, key = ARGV[at], ARGV[at + 1]
  local other = redis.call('HGET', KEYS[4], key)
  if other and other ~= number and redis.call('HEXISTS', KEYS[2], other) == 1 then
    redis.call('ZREM', KEYS[1], other)
    redis.call('HDEL', KEYS[2], other)
    redis.call('ZREM', KEYS[3], other)
  end
  redis.call('HSET', KEYS[4], key, number)
  redis.call('HSET', KEYS[2], number, ARGV[at + 2])
  redis.call('ZADD', KEYS[1], number, number)
  redis.call('ZADD', KEYS[3], number, number)
  if tonumber(number) > (tonumber(redis.call('GET', KEYS[5]) or 0) or 0) then redis.call('SET', KEYS[5], number) end
end
return 1
"""
# KEYS: log, documents. ARGV: how many may stay, the number from which on they are young enough, a batch's size.
FIND_OLD = """
local over = math.min(redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1]), tonumber(ARGV[3]))
local numbers = redis.call('ZRANGE', KEYS[1], '-inf', '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
if over > #numbers then numbers = redis.call('ZRANGE', KEYS[1], 0, over - 1) end
if #numbers == 0 then return {{}, {}} end
return {numbers, redis.call('HMGET', KEYS[2], unpack(numbers))}
"""
# KEYS: log, documents, log of the stream, keys of the stream, deliveries of the stream, those by status (3).
# ARGV: (number, key)...
REMOVE = """
for at = 1, #ARGV, 2 do
  local number, key = ARGV[at], ARGV[at + 1]
  redis.call('ZREM', KEYS[1], number)
  redis.call('HDEL', KEYS[2], number)
  redis.call('ZREM', KEYS[3], number)
  if redis.call('HGET', KEYS[4], key) == number then redis.call('HDEL', KEYS[4], key) end
  redis.call('HDEL', KEYS[5], number)
  for of = 6, 8 do redis.call('ZREM', KEYS[of], number) end
end
return 1
"""

# KEYS: deliveries of the stream, those by status (3), pending of the watch, due deliveries, documents.
# ARGV: number, delivery, place of its status among the three, item of the agenda, when it is due if it is pending.
# A settled delivery of an event that is no longer in the log is forgotten, as the event is.
SET_DELIVERY = """
local gone = not ARGV[5] and redis.call('HEXISTS', KEYS[7], ARGV[1]) == 0
if gone then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
for at = 1, 3 do
  if at == tonumber(ARGV[3]) and not gone then
    redis.call('ZADD', KEYS[at + 1], ARGV[1], ARGV[1])
  else
    redis.call('ZREM', KEYS[at + 1], ARGV[1])
  end
end
if ARGV[5] then
  redis.call('ZADD', KEYS[5], ARGV[5], ARGV[1])
  redis.call('ZADD', KEYS[6], 'LT', ARGV[5], ARGV[4])
else
  redis.call('ZREM', KEYS[5], ARGV[1])
end
return 1
"""
# KEYS: pending of the watch. ARGV: now, until when. Postpones those that are due.
POSTPONE_DUE = """
for _, number in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE')) do
  redis.call('ZADD', KEYS[1], 'XX', ARGV[2], number)
end
return 1
"""
# KEYS: ready, streams to rebuild, those of one status, deliveries of the stream. ARGV: exclusive upper bound, count.
LIST_DELIVERIES = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {'rebuilding'} end
local numbers = redis.call('ZRANGE', KEYS[3], ARGV[1], '(999999999999999', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[2])
if #numbers == 0 then return {'read', {}} end
return {'read', redis.call('HMGET', KEYS[4], unpack(numbers))}
"""
