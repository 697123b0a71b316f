# Keeps one `from_file` line for our file in the operator's own gitlab.rb, and finds what would undo our settings.
#
# usage: ruby include.rb check|fix OUR_FILE GITLAB_RB OUR_KEYS_AS_JSON     prints one JSON object
#
# The operator's file is Ruby, so only Ruby can say what it does: it is evaluated with an object that remembers who
# set which key where (also by merge!, in an `if`, or in a file that it includes). The values never leave this process:
# messages name lines and keys, because the file holds the site's secrets.
require 'json'
require 'socket'
require 'timeout'

class Section < Hash
  def initialize(name, log)
    super()
    @name, @log = name, log
  end

  def []=(key, value)
    @log.call(@name, key.to_s)
    super(key.to_s, value)
  end
  alias store []=

  def [](key)
    super(key.to_s)
  end

  def fetch(key, *rest, &block)
    super(key.to_s, *rest, &block)
  end

  def merge!(*others)
    others.each { |other| other.each { |key, value| self[key] = value } }
    self
  end
  alias update merge!
  alias deep_merge! merge!
  alias replace merge!

  def delete(key)
    @log.call(@name, key.to_s)
    super(key.to_s)
  end
end

# Stands where Omnibus puts its configuration object (Gitlab, a Mixlib::Config) while gitlab.rb is evaluated.
class Recorder < BasicObject
  def initialize(ours, keys, max_depth = 20)
    @ours, @keys, @depth, @max_depth = ours, keys, 0, max_depth
    @sections, @set, @included = {}, [], nil
    @order = 0
  end

  attr_reader :included

  def evaluate(path, text = nil)
    ::Kernel.raise ::RuntimeError, 'from_file goes round in circles' if (@depth += 1) > @max_depth
    instance_eval(text || ::IO.read(path, encoding: 'UTF-8'), path, 1)
  ensure
    @depth -= 1
  end

  def from_file(path)
    if path == @ours
      @included = (@order += 1)
    else
      evaluate(path)
    end
  end

  def conflicts
    return [] unless @included
    @set.select { |set| set[:order] > @included }.map { |set| set.reject { |key, _| key == :order } }
  end

  def node
    @node ||= { 'fqdn' => ::Socket.gethostname, 'hostname' => ::Socket.gethostname.split('.').first,
                'ipaddress' => '127.0.0.1', 'platform_family' => 'debian', 'memory' => { 'total' => '0kB' },
                'cpu' => { 'total' => 1 } }
  end

  def method_missing(name, *args)
    name = name.to_s
    return @sections[name] = args.first unless args.empty?
    sections, order, set, keys = @sections, method(:tick), @set, @keys
    sections[name] ||= ::Section.new(name, lambda { |section, key|
      next unless keys.include?([section, key])
      where = ::Kernel.caller_locations.find { |l| l.path.end_with?('.rb') && l.path != '-e' && !l.path.end_with?('/include.rb') }
      set << { order: order.call, file: where ? where.path : '?', line: where ? where.lineno : 0, key: "#{section}['#{key}']" }
    })
  end

  def respond_to_missing?(*) = true

  def method(name)
    ->(*args) { __send__(name, *args) }
  end

  def tick
    @order += 1
  end

  %w[puts print p warn require require_relative raise rand sleep system format sprintf lambda proc Integer String
     Float Array Hash loop catch throw ` srand].each do |name|
    define_method(name) { |*args, &block| ::Kernel.__send__(name, *args, &block) }
  end

  def self.const_missing(name)
    ::Object.const_get(name)
  end
end

def where_of(error, path)
  line = error.message[/#{Regexp.escape(path)}:(\d+)/, 1] if error.is_a?(SyntaxError)
  line ||= (error.backtrace || []).map { |l| l[/\A#{Regexp.escape(path)}:(\d+)/, 1] }.compact.first
  line ? "line #{line}" : 'an unknown line'
end

def examine(path, text, ours, keys)
  recorder = Recorder.new(ours, keys)
  saved, $stdout = $stdout, $stderr
  begin
    Timeout.timeout(20) { recorder.evaluate(path, text) }
    problem = nil
  rescue Exception => error # rubocop:disable Lint/RescueException -- `exit` and SyntaxError too
    problem = "#{path} cannot be evaluated: #{error.class} at #{where_of(error, path)}"
  ensure
    $stdout = saved
  end
  { error: problem, included: !recorder.included.nil?, conflicts: recorder.conflicts }
end

# The line as we write it and as an operator may have retyped it; comments are no lines of ours.
def own_line?(line, ours)
  line.match?(/\A\s*from_file[\s(]*(['"])#{Regexp.escape(ours)}\1\s*\)?\s*;?\s*(#.*)?\r?\n?\z/)
end

def with_one_line(text, ours)
  lines = text.lines
  mine = lines.each_index.select { |n| own_line?(lines[n], ours) }
  mine[0..-2].reverse_each { |n| lines.delete_at(n) }
  return lines.join if mine.any?

  stop = lines.index { |line| line.chomp == '__END__' } || lines.length
  lines[stop - 1] += "\n" if stop.positive? && !lines[stop - 1].end_with?("\n")
  lines.insert(stop, "from_file '#{ours}'\n").join
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

mode, ours, path, keys = ARGV
keys = JSON.parse(keys)
unless File.file?(path)
  puts JSON.generate(lines: 0, error: "#{path} does not exist", included: false, conflicts: [])
  exit 0
end
text = IO.read(path, encoding: 'UTF-8')
count = text.lines.count { |line| own_line?(line, ours) }
declared = with_one_line(text, ours)
answer = examine(path, declared, ours, keys)
answer[:lines] = count
answer[:as_declared] = text == declared
if answer[:error].nil? && !answer[:included]
  answer[:error] = "the from_file line in #{path} is never reached (it is in a block that does not run, or after __END__)"
end
if mode == 'fix' && answer[:error].nil? && answer[:conflicts].empty? && text != declared
  replace(path, declared)
end
puts JSON.generate(answer)
