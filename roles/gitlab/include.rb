# Keeps one `from_file` line for our file in the operator's own gitlab.rb, and finds what would undo our settings.
#
# usage: ruby include.rb check|fix OUR_FILE GITLAB_RB OUR_KEYS_AS_JSON     prints one JSON object
#
# The operator's file is Ruby, so only Ruby can say what it does: a child process evaluates it as the package would and
# remembers which lines reach our file, and what happens to our keys after that. The values never leave the child, and
# what the file prints goes nowhere: messages name lines and keys, because the file holds the site's secrets.
require 'json'
require 'socket'
require 'timeout'

# A section such as gitlab_rails. As in the package 'key' and :key are one, and an absent key may spring into being.
class Section < Hash
  def self.of(value) = value.instance_of?(Hash) ? new.update(value) : value
  def word(key) = key.is_a?(Symbol) ? key.to_s : key

  def [](key)
    key = word(key)
    WATCH.vivify && !key?(key) ? self[key] = Section.new : super
  end

  def []=(key, value)
    super(word(key), Section.of(value))
    WATCH.wrote(WATCH.name_of(self), [word(key).to_s])
  end
  alias store []=

  # Hash asks this for a key that it does not have, in `dig` and `values_at` too.
  def default(key = nil) = key.is_a?(Symbol) ? fetch(key.to_s, nil) : super

  %i[key? has_key? include? member? fetch].each do |name|
    define_method(name) { |key, *rest, &block| super(word(key), *rest, &block) }
  end

  def update(*others)
    others.each do |other|
      other.to_h.each { |key, value| self[key] = block_given? && key?(key) ? yield(key, self[key], value) : value }
    end
    self
  end
  alias merge! update
  alias deep_merge! update

  def merge(...) = dup.update(...)
  def delete(key, &block) = WATCH.changing(WATCH.name_of(self)) { super(word(key), &block) }
  def replace(other) = WATCH.changing(WATCH.name_of(self)) { super(Section.of(other.to_h)) }

  %i[clear shift compact! delete_if reject! keep_if select! filter! transform_keys! transform_values!].each do |name|
    define_method(name) { |*args, &block| WATCH.changing(WATCH.name_of(self)) { super(*args, &block) } }
  end
end

# What happens to our keys while gitlab.rb is evaluated.
class Watch
  attr_accessor :vivify
  attr_reader :ours, :live, :included

  def initialize(path, text, ours, keys)
    @path, @text, @ours = path, text, ours
    @keys = keys.group_by(&:first).to_h { |section, pairs| [section.to_sym, pairs.map(&:last)] }
    @files, @live, @wrote, @left = [], [], [], {}
  end

  def text(file)
    raise 'from_file goes round in circles' if @files.push(file).size > 100
    @vivify = true
    file == @path ? @text : File.binread(file).force_encoding('UTF-8')
  end

  # Our file may not be there yet, or be about to be replaced: then any text stands for our values.
  def include_ours(from)
    @live |= [from.lineno] if from.path == @path
    begin
      Gitlab.instance_eval(File.binread(@ours).force_encoding('UTF-8'), @ours, 1)
    rescue StandardError, ScriptError
      @keys.each { |name, keys| keys.each { |key| Gitlab[name].key?(key) || Gitlab[name][key] = +'x' } }
    end
    @included, @wrote = true, []
    @left = @keys.to_h { |name, _| [name, state(name).transform_values { |value| [value, value.dup] }] }
  end

  def name_of(section) = Gitlab.configuration.find { |_, value| value.equal?(section) }&.first

  def state(name)
    section = Gitlab.configuration[name]
    section.is_a?(Hash) ? section.slice(*@keys.fetch(name, [])) : {}
  end

  def wrote(name, keys)
    keys &= @keys.fetch(name, [])
    where = caller_locations.find { |frame| @files.include?(frame.path) } if keys.any?
    keys.each { |key| @wrote << [where&.path || @path, where&.lineno || '?', name, key] }
  end

  def changing(name)
    before = state(name)
    result = yield
    now = state(name)
    wrote(name, (before.keys | now.keys).reject { |key| before.key?(key) && before[key].equal?(now[key]) })
    result
  end

  # What was written since our file was reached, and what is not as our file left it though no write was seen.
  def conflicts
    lost = @left.flat_map do |name, left|
      now = state(name)
      left.reject { |key, (value, copy)| now[key].equal?(value) && now[key] == copy }.map { |key, _| [name, key] }
    end
    unseen = (lost - @wrote.map { |seen| seen.last(2) }).map { |name, key| [@path, '?', name, key] }
    (@wrote + unseen).group_by { |found| found.first(2) }.map do |(file, line), found|
      first, *more = found.map { |_, _, name, key| "#{name}['#{key}']" }.uniq
      { file: file, line: line, key: more.empty? ? first : "#{first} and #{more.size} more of our keys" }
    end
  end
end

# Stands for the package's module of this name (a Mixlib::Config), on which it evaluates gitlab.rb.
module Gitlab
  @configuration = {}

  class << self
    attr_reader :configuration

    # As in the package only `filename` can be seen in the file, `return` in it ends it, and after a from_file line the
    # rest of the outer file is read without auto-vivification.
    def from_file(filename)
      return ::WATCH.include_ours(caller_locations(1, 1).first) if ::File.expand_path(filename) == ::WATCH.ours
      instance_eval(::WATCH.text(filename), filename, 1)
    ensure
      ::WATCH.vivify = false
    end

    def node
      name = ::Socket.gethostname
      { 'fqdn' => name, 'hostname' => name.split('.').first, 'ipaddress' => '127.0.0.1', 'platform_family' => 'debian',
        'memory' => { 'total' => '0kB' }, 'cpu' => { 'total' => 1 } }
    end

    def [](name) = method_missing(name.to_sym)

    def []=(name, value)
      method_missing(name.to_sym, value)
    end

    def method_missing(word, *values)
      return super if values.size > 1 || word.match?(/[!?]\z|\A(delete|reset|restore)\z/)
      word = word.to_s.delete_suffix('=').to_sym
      return ::WATCH.changing(word) { configuration[word] = ::Section.of(values.first) } unless values.empty?
      return configuration[word] if configuration.key?(word) || word.match?(/(external_url|_dir|\Aroles|\Aedition)\z/)
      configuration[word] = ::Section.new
    end
  end
end

# Evaluates a text as that file, in a child: it may exit, hang, print, or change Ruby itself.
def evaluate(path, text, ours, keys)
  reader, writer = IO.pipe
  child = fork do
    Process.setpgrp
    STDIN.reopen(File::NULL)
    [STDOUT, STDERR].each { |io| io.reopen(File::NULL, 'w') }
    Object.const_set(:WATCH, Watch.new(path, text, ours, keys))
    begin
      Gitlab.from_file(path)
    rescue Exception => error # rubocop:disable Lint/RescueException -- `exit` and SyntaxError too
      at = error.message.b[/#{Regexp.escape(path)}:(\d+)/n, 1] if error.is_a?(SyntaxError)
      at ||= (error.backtrace || []).filter_map { |frame| frame.b[/\A#{Regexp.escape(path)}:(\d+)/n, 1] }.first
      failed = { error: "cannot be evaluated: #{error.class}", at: at&.to_i }
    end
    conflicts = WATCH.included ? WATCH.conflicts : []
    writer.write(JSON.generate({ error: nil, at: nil, live: WATCH.live, conflicts: conflicts, **(failed || {}) }))
  ensure
    exit!(0)
  end
  writer.close
  JSON.parse(Timeout.timeout(20) { reader.read }, symbolize_names: true)
rescue JSON::ParserError, Timeout::Error => error
  Process.kill(:KILL, -child) if error.is_a?(Timeout::Error)
  why = error.is_a?(Timeout::Error) ? 'it takes more than 20 seconds' : 'it ends the program that reads it'
  { error: "cannot be evaluated: #{why}", at: nil, live: [], conflicts: [] }
ensure
  Process.wait(child)
end

# The numbers of the lines that reach our file and are written as we do it, or as an operator may have retyped it.
def own_lines(lines, live, ours)
  own = /\A\s*from_file[\s(]*(['"])#{Regexp.escape(ours.b)}\1\s*\)?\s*;?\s*(#.*)?\r?\n?\z/n
  live.sort.select { |number| lines[number - 1]&.first.to_s.b.match?(own) }
end

# The lines as they must be, each with its number now. The last line of ours that is reached stays; text that only
# looks like it (in a comment, a heredoc, after __END__) is the operator's.
def with_one_line(lines, mine, ours)
  return lines.reject { |_, number| mine[0..-2].include?(number) } if mine.any?
  if lines.any? { |line, _| line.start_with?('__END__') }
    require 'ripper'
    last = Ripper.lex(lines.map(&:first).join).find { |_, token| token == :on___end__ }
  end
  stop = last ? last[0][0] - 1 : lines.size
  above = lines.first(stop)
  above[-1] = ["#{above[-1][0]}\n", stop] unless stop.zero? || above[-1][0].end_with?("\n")
  above + [["from_file '#{ours}'\n", nil]] + lines.drop(stop)
end

def examine(path, text, ours, keys)
  found = evaluate(path, text, ours, keys)
  lines = text.lines.each.with_index(1).to_a
  mine = own_lines(lines, found[:live], ours)
  lines = with_one_line(lines, mine, ours) unless found[:error]
  declared = lines.map(&:first).join
  found = evaluate(path, declared, ours, keys) if declared != text
  number = ->(at) { at.is_a?(Integer) && lines[at - 1] ? lines[at - 1][1] : at }
  if found[:error]
    error = "#{path} #{found[:error]}#{" at line #{number.call(found[:at])}" if found[:at]}"
  elsif own_lines(lines, found[:live], ours).size != 1
    error = "#{path} cannot have one from_file line: it is never reached, because something above it ends the file"
  end
  found[:conflicts].each { |set| set[:line] = number.call(set[:line]) if set[:file] == path }
  answer = { lines: mine.size, as_declared: declared == text && !error, conflicts: found[:conflicts], error: error }
  [answer, declared]
end

def replace(path, text)
  path = File.realpath(path)
  stat = File.stat(path)
  staged = File.join(File.dirname(path), ".#{File.basename(path)}.pyinfra-new")
  File.open(staged, File::WRONLY | File::CREAT | File::TRUNC, 0o600) do |file|
    file.write(text)
    file.chown(stat.uid, stat.gid)
    file.chmod(stat.mode & 0o7777)
    file.fsync
  end
  File.rename(staged, path)
ensure
  File.delete(staged) if staged && File.exist?(staged)
end

mode, ours, path, keys = ARGV.shift(4)
answer = { lines: 0, as_declared: false, conflicts: [], error: "#{path} does not exist" }
begin
  if File.file?(path)
    text = File.binread(path).force_encoding('UTF-8')
    answer, declared = examine(path, text, ours, JSON.parse(keys))
    replace(path, declared) if mode == 'fix' && !answer[:error] && answer[:conflicts].empty? && text != declared
  end
rescue StandardError, ScriptError => error
  answer[:error] = "#{path} could not be read or written: #{error.class}"
end
puts JSON.generate(answer)
