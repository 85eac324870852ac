"""The Lua scripts of coverage.py. Redis runs each of them atomically."""

# Marks segments (number, frames, mask unless it is full), and counts those whose bit is set for the first time.
# Pace is measured since the last pause longer than ARGV[2] s: `:base` is the frame count when it ended, at `:since`.
MARK = """
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
local marked = false
for at = 3, #ARGV, 3 do
  local segment, frames, mask = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if redis.call('SETBIT', KEYS[1], segment, 1) == 0 then
    redis.call('HINCRBY', KEYS[2], ARGV[1], frames)
    marked = true
    if mask ~= '' then redis.call('ZADD', KEYS[3], segment, segment .. ':' .. mask) end
  end
  if KEYS[5] then redis.call('HDEL', KEYS[5], segment) end
end
if marked then
  local now, last = redis.call('TIME')[1], redis.call('HGET', KEYS[2], ARGV[1] .. ':last')
  if not last or now - last > tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[2], ARGV[1] .. ':since', now, ARGV[1] .. ':base', redis.call('HGET', KEYS[2], ARGV[1]))
  end
  redis.call('HSET', KEYS[2], ARGV[1] .. ':last', now)
end
if KEYS[6] then redis.call('SADD', KEYS[6], string.sub(ARGV[1], 9)) end -- encoded:FINGERPRINT
return 1
"""
UNMARK = """
if redis.call('GETBIT', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SETBIT', KEYS[1], ARGV[1], 0)
redis.call('HINCRBY', KEYS[2], ARGV[2], -ARGV[3])
return 1
"""
# Sets the mask of a stream's segment (ARGV: segment, mask, frames). If it has grown since it was marked, every model's
# mark of its record is removed (KEYS from 5 on: the marks of encoded segments; ARGV from 4 on: their counters).
MARK_LIVE = """
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
local segment, mask, frames = ARGV[1], ARGV[2], tonumber(ARGV[3])
local before = 0
if redis.call('GETBIT', KEYS[1], segment) == 1 then
  before = 64
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], segment, segment)) do
    before = 0
    for bits in string.gmatch(string.match(member, ':(.*)$'), '.') do
      local value = tonumber(bits, 16)
      while value > 0 do before = before + value % 2 value = math.floor(value / 2) end
    end
    if string.match(member, ':(.*)$') == mask then return 1 end
  end
  if before == 64 and mask == 'ffffffffffffffff' then return 1 end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], segment, segment)
  for at = 5, #KEYS do
    if redis.call('GETBIT', KEYS[at], segment) == 1 then
      redis.call('SETBIT', KEYS[at], segment, 0)
      redis.call('HINCRBY', KEYS[2], ARGV[at - 1], -before)
    end
  end
end
redis.call('SETBIT', KEYS[1], segment, 1)
redis.call('HINCRBY', KEYS[2], 'sampled', frames - before)
if mask ~= 'ffffffffffffffff' then redis.call('ZADD', KEYS[3], segment, segment .. ':' .. mask) end
return 1
"""
# Removes the marks of a segment that retention removed (KEYS: sampled, totals, partial, then marks of encoded segments;
# ARGV: segment, frames, then counters).
REMOVE = """
if redis.call('GETBIT', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SETBIT', KEYS[1], ARGV[1], 0)
redis.call('HINCRBY', KEYS[2], 'sampled', -ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[3], ARGV[1], ARGV[1])
for at = 4, #KEYS do
  if redis.call('SETBIT', KEYS[at], ARGV[1], 0) == 1 then redis.call('HINCRBY', KEYS[2], ARGV[at - 1], -ARGV[2]) end
end
return 1
"""
# Marks a segment as failed, unless the video was deleted.
FAIL = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
# Notes that a video's marks are complete, unless the video was deleted.
COUNTED = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'counted', 1)
return 1
"""
# Reads everything about the segments from ARGV[1] to ARGV[2]. Of a stream's open segments: the slots captured (KEYS[6])
# and those with tokens (KEYS[7]).
READ = """
local first, last = math.floor(ARGV[1] / 8), math.floor(ARGV[2] / 8)
return {
  redis.call('GETRANGE', KEYS[1], first, last),
  redis.call('GETRANGE', KEYS[2], first, last),
  redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[1], ARGV[2]),
  redis.call('HGETALL', KEYS[4]),
  redis.call('STRLEN', KEYS[1]),
  redis.call('HGETALL', KEYS[5]),
  redis.call('BITPOS', KEYS[2], 0),
  redis.call('STRLEN', KEYS[2]),
  redis.call('ZRANGEBYSCORE', KEYS[6], ARGV[1] * 64, ARGV[2] * 64 + 63),
  redis.call('HKEYS', KEYS[7]),
}
"""
# Reads the totals of each video (three keys per video).
TOTALS = """
local found = {}
for at = 1, #KEYS, 3 do
  found[#found + 1] = {
    redis.call('HGETALL', KEYS[at]),
    redis.call('HVALS', KEYS[at + 1]),
    redis.call('BITPOS', KEYS[at + 2], 0),
    redis.call('STRLEN', KEYS[at + 2]),
  }
end
return found
"""
# Reads the marks of each video (four keys per video); false if one of them is damaged.
PENDING = """
local found = {}
for at = 1, #KEYS, 4 do
  local sampled, encoded = redis.pcall('GET', KEYS[at]), redis.pcall('GET', KEYS[at + 1])
  local failed, counted = redis.pcall('HKEYS', KEYS[at + 2]), redis.pcall('HEXISTS', KEYS[at + 3], 'counted')
  local damaged = false
  for _, reply in ipairs({sampled, encoded, failed, counted}) do
    if type(reply) == 'table' and reply.err then damaged = true end
  end
  found[#found + 1] = not damaged and {counted, sampled or '', encoded or '', failed}
end
return found
"""
