"""`include.rb` with a real Ruby on operators' own files: one line is kept, and what would undo it is named."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from roles.gitlab import facts
from roles.node.facts import Answer, NodeState

SECRET = "operators-own-s3cret"


class Operator:
    """A folder with an operator's `gitlab.rb`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.ours = folder / "gitlab.rb", folder / "pyinfra-mail.rb"
        self.line = f"from_file '{self.ours}'\n"

    def write(self, text: str | bytes) -> bytes:
        """Make the file; `@` stands for our line, `OURS` for our file."""
        if isinstance(text, str):
            text = text.replace("@", self.line).replace("OURS", str(self.ours)).encode()
        self.path.write_bytes(text)
        return text

    def run(self, mode: str, locale: str = "C") -> facts.Include:
        """What the product makes of the program's answer, as it is run on a node."""
        words = shlex.split(facts.include_command(mode))
        assert words[4:6] == [facts.MAIL_RB, facts.GITLAB_RB]
        words[0], words[4:6] = "ruby", [str(self.ours), str(self.path)]
        done = subprocess.run(words, capture_output=True, env={**os.environ, "LC_ALL": locale}, check=False)
        assert SECRET.encode() not in done.stdout + done.stderr
        self.rc = done.returncode
        answer = Answer(done.stdout.decode().rstrip("\n"), done.returncode)
        return facts.include(NodeState(0.0, answers={"gitlab.include": answer}))


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path)


TAKEN = {
    # name: (the operator's file, how it must finally be, lines at first); `@` is our line
    "an empty file": ("", "@", 0),
    "no line": ("external_url 'x'\n", "external_url 'x'\n@", 0),
    "one line": ("a = 1\n@b = 2\n", "a = 1\n@b = 2\n", 1),
    "two lines": ("a = 1\n@b = 2\n@c = 3\n", "a = 1\nb = 2\n@c = 3\n", 2),
    "three lines": ("@@@", "@", 3),
    "other spellings": ("from_file(\"OURS\") # a\n  from_file 'OURS' ;\r\n@", "@", 3),
    "one other spelling": ('\tfrom_file( "OURS" )  # b\n', '\tfrom_file( "OURS" )  # b\n', 1),
    "in a comment": ("# @", "# @@", 0),
    "another file of that name": ("x = \"from_file 'OURS.bak'\"\n", "x = \"from_file 'OURS.bak'\"\n@", 0),
    "no newline at the end": ("a = 1", "a = 1\n@", 0),
    "a comment without newline": ("a = 1 # x", "a = 1 # x\n@", 0),
    "our line without newline": ("a = 1\nfrom_file 'OURS'", "a = 1\nfrom_file 'OURS'", 1),
    "CRLF": ("a = 1\r\nb = 2\r\n", "a = 1\r\nb = 2\r\n@", 0),
    "CRLF with the line": ("a = 1\r\nfrom_file 'OURS'\r\n", "a = 1\r\nfrom_file 'OURS'\r\n", 1),
    "something after __END__": ("a = 1\n__END__\nx'\n", "a = 1\n@__END__\nx'\n", 0),
    "__END__ without newline": ("a = 1\r\n__END__", "a = 1\r\n@__END__", 0),
    "UTF-8": ("# mängled\nnginx['x'] = '한국어 \U0001f600'\n", "# mängled\nnginx['x'] = '한국어 \U0001f600'\n@", 0),
    "in a block that runs": ("if true\n  @end\n", "if true\n  @end\n", 1),
    "an operator's condition": ("from_file 'OURS' if true\n", "from_file 'OURS' if true\n@", 0),
    "our key before the line": ("mailroom['enable'] = true\n@", "mailroom['enable'] = true\n@", 1),
    "merge! before the line": ("mailroom.merge!('enable' => true)\n@", "mailroom.merge!('enable' => true)\n@", 1),
    "a local variable": ("@mailroom = {}\nmailroom['enable'] = 1\n", "@mailroom = {}\nmailroom['enable'] = 1\n", 1),
    "other keys after the line": ("@gitlab_rails['x'] = 1\nnginx['enable'] = 1\n",) * 2 + (1,),
    # A line that is never reached is the operator's text: it stays, does not count, and is not kept for a live one.
    "only in a heredoc": ("x = <<~X\n@X\n", "x = <<~X\n@X\n@", 0),
    "only after __END__": ("a = 1\n__END__\n@", "a = 1\n@__END__\n@", 0),
    "only in a block comment": ("=begin\n@=end\n", "=begin\n@=end\n@", 0),
    "only in a dead block": ("if false\n@end\n", "if false\n@end\n@", 0),
    "in a heredoc, then live": ("x = <<~X\n@X\n@",) * 2 + (1,),
    "live, then in a comment": ("@=begin\n@=end\n",) * 2 + (1,),
    "live, then after __END__": ("@__END__\n@",) * 2 + (1,),
    "live, then in a heredoc": ("@x = <<~X\n@X\n",) * 2 + (1,),
    "live, then in a dead block": ("@if false\n@end\n",) * 2 + (1,),
    "twice live, then in a heredoc": ("@@x = <<~X\n@X\n", "@x = <<~X\n@X\n", 2),
    "__END__ in a heredoc": ("x = <<X\n__END__\nX\n", "x = <<X\n__END__\nX\n@", 0),
    "__END__ in a comment": ("=begin\n__END__\n=end\n", "=begin\n__END__\n=end\n@", 0),
    "__END__ in a heredoc and real": ("x = <<X\n__END__\nX\n__END__\nx", "x = <<X\n__END__\nX\n@__END__\nx", 0),
    "prints": ("puts 'x'\n$stdout.puts 1\np 1\nprint 2\nwarn 'w'\n",) * 2 + (0,),
    "words of Ruby": (
        "A = 1\ndef f(x) = nginx['x'] = x\nf A\nrequire 'yaml'\nnginx[:y] = [ENV['HOME'], File.read('/etc/passwd'),\n"
        "JSON.parse('{}'), Socket.gethostname, node['fqdn'], `id`, nginx['no'] ||= 1, nginx.fetch(:y, 2)]\n",
    ) * 2 + (0,),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_exactly_one_line_is_kept_and_nothing_else_changes(operator, name):
    before, after, lines = TAKEN[name]
    if before == after and not lines:
        after += "@"
    final = operator.write(after)
    found = operator.write(before)
    assert operator.run("check") == facts.Include(found == final, lines, ())
    assert operator.path.read_bytes() == found, "check changes nothing"
    assert operator.run("fix") == facts.Include(found == final, lines, ())
    assert operator.path.read_bytes() == final
    stat = operator.path.stat()
    assert operator.run("fix", "C.UTF-8") == facts.Include(True, 1, ())
    assert operator.path.stat() == stat, "a second fix does not write"
    assert [path.name for path in operator.path.parent.iterdir()] == ["gitlab.rb"]


REFUSED = {
    # name: (the operator's file, what is said of it)
    "after a return": ("unless node['fqdn'].nil?\n  return\nend\n@", "never reached"),
    "a syntax error": (f"a = 1\nx = '{SECRET}\n", "SyntaxError at line"),
    "a syntax error after the line": (f"@a = (\n# {SECRET}\n", "SyntaxError at line"),
    "an exception": (f"a = 1\n\nraise '{SECRET}'\n", "RuntimeError at line 3"),
    "an unknown method": ("a = 1\n'x'.no_such_method\n", "NoMethodError at line 2"),
    "a file that includes itself": ("from_file __FILE__\n", "RuntimeError at line 1"),
    "a file that is not there": ("from_file '/nonexistent.rb'\n", "ENOENT at line 1"),
    # As in the package (settings_dsl.rb): what follows a from_file line is read without auto-vivification.
    "nested keys after the line": ("@gitlab_rails['object_store']['enabled'] = true\n", "NoMethodError at line 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_put_right_is_named_and_left_alone(operator, name):
    text, told = REFUSED[name]
    found = operator.write(text)
    for mode in ("check", "fix"):
        (problem,) = operator.run(mode).problems
        assert told in problem
        assert str(operator.path) in problem
        assert operator.path.read_bytes() == found


def test_a_file_that_does_not_exist_is_named_and_not_made(operator):
    assert operator.run("fix") == facts.Include(False, 0, (f"{operator.path} does not exist",))
    assert not operator.path.exists()


UNDONE = {
    # name: (what stands after our line, the key that is named, the line it is on)
    "a key": ("\nmailroom['enable'] = true\n", "mailroom['enable']", 3),
    "a symbol": ("mailroom[:enable] = true\n", "mailroom['enable']", 2),
    "merge!": (f"gitlab_rails.merge!('incoming_email_host' => '{SECRET}')\n", "gitlab_rails['incoming_email_host']", 2),
    "merge! with symbols": ("gitlab_rails.merge!(x: 1, internal_api_url: 2)\n", "gitlab_rails['internal_api_url']", 2),
    "update": ("mailroom.update('enable' => true)\n", "mailroom['enable']", 2),
    "store": ("mailroom.store(:enable, 1)\n", "mailroom['enable']", 2),
    "delete": ("mailroom.delete('enable')\n", "mailroom['enable']", 2),
    "a token": ("mailroom['service_desk_email_auth_token'] = 1\n", "mailroom['service_desk_email_auth_token']", 2),
    "in a block": ("[1].each do\n  mailroom['enable'] = 1\nend\n", "mailroom['enable']", 3),
    "through a variable": ("m = mailroom\nm['enable'] = true\n", "mailroom['enable']", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDONE)
def test_what_would_undo_our_keys_is_named_and_nothing_is_written(operator, name):
    text, key, number = UNDONE[name]
    operator.write("@" + text)
    (problem,) = operator.run("check").problems
    assert problem.startswith(f"{operator.path}:{number} sets {key} after the line")
    found = operator.write("@@" + text)
    assert len(operator.run("fix").problems) == 1
    assert operator.path.read_bytes() == found, "nor is the first of two lines removed"


def test_a_key_that_undoes_ours_is_named_with_the_line_it_is_on(operator):
    operator.write("@@mailroom['enable'] = true\n")
    (problem,) = operator.run("check").problems
    assert problem.startswith(f"{operator.path}:3 sets")


def test_a_key_set_by_another_file_after_the_line_names_that_file(operator):
    other = operator.path.with_name("other.rb")
    other.write_text("\n\nmailroom['enable'] = true\n")
    operator.write(f"@from_file '{other}'\n")
    (problem,) = operator.run("check").problems
    assert problem.startswith(f"{other}:3 sets mailroom['enable']")
    operator.write(f"from_file '{other}'\n@")
    assert operator.run("check") == facts.Include(True, 1, ())


@pytest.mark.skipif(os.getuid() != 0, reason="giving a file away needs root")
def test_mode_and_owner_are_kept(operator):
    operator.write("a = 1\n")
    operator.path.chmod(0o4640)
    os.chown(operator.path, 1234, 5678)
    operator.path.chmod(0o2640)
    operator.run("fix")
    stat = operator.path.stat()
    assert (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o2640, 1234, 5678)
    assert operator.path.read_text() == f"a = 1\n{operator.line}"


def test_a_link_stays_a_link(operator):
    target = operator.path.parent / "repository" / "site.rb"
    target.parent.mkdir()
    target.write_text("a = 1\n")
    operator.path.symlink_to("repository/site.rb")
    assert operator.run("fix").problems == ()
    assert os.readlink(operator.path) == "repository/site.rb"
    assert target.read_text() == f"a = 1\n{operator.line}"
    assert [path.name for path in target.parent.iterdir()] == ["site.rb"]


FINE = {
    # name: what the package reads without complaint; `@` is our line
    "nested keys": "gitlab_rails['object_store']['connection'] = {}\nx = nginx['a']['b']\n@",
    "a Latin-1 comment": b"# m\xe4ngled\n",
    "a Latin-1 file that says so": b"# encoding: iso-8859-1\nx = 'm\xe4'\n",
    "our value is read": "@nginx['x'] = gitlab_rails['incoming_email_address'].sub('a', 'b')\n",
    "our value is only set when absent": "@gitlab_rails['incoming_email_address'] ||= 'x'\n",
    "the section with all of our keys": "@gitlab_rails(gitlab_rails.merge('x' => 1))\n",
    "keys of others are dropped": "gitlab_rails['x'] = nil\n@gitlab_rails.compact!\ngitlab_rails.delete('y')\n",
    "a copy is changed": "@x = gitlab_rails.dup\nx['incoming_email_address'] = 1\n",
    "set after the first of two lines": "@gitlab_rails['incoming_email_address'] = 'x'\nfrom_file 'OURS'.dup\n",
    "a symbol is asked for": "nginx['a'] = 1\nraise unless nginx.key?(:a) && nginx.dig(:a) == 1\n@",
    "the package's module": "Gitlab['nginx']['a'] = 1\nraise unless nginx['a'] == 1 && registry_external_url.nil?\n@",
    "__dir__": "x = File.join(__dir__, 'x')\n@",
    "open": "x = open('/etc/passwd').read\n@",
    "send": "send(:nginx)['x'] = 1\n@",
    "system": "system 'echo x'\n@",
    "STDOUT": "STDOUT.puts 'x'\n$stdout = STDOUT\n@",
    "our own settings in words of Ruby": "path, text, keys = 1, 2, 3\nSection = Watch = 1\n@",
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_what_the_package_reads_is_not_refused(operator, name):
    operator.ours.write_text("gitlab_rails['incoming_email_address'] = 'in+%{key}@example.com'\n")
    found = operator.write(FINE[name])
    assert operator.run("fix").problems == ()
    assert operator.rc == 0
    assert operator.path.read_bytes().startswith(found)
    assert operator.run("check").as_declared


def test_what_the_file_prints_goes_nowhere(operator):
    operator.write(
        f"puts '{SECRET}'\nwarn '{SECRET}'\nsystem \"echo '{SECRET}' | tee /dev/stderr\"\n@abort '{SECRET}'\n"
    )
    (problem,) = operator.run("check").problems
    assert problem == f"{operator.path} cannot be evaluated: SystemExit at line 5"


def test_a_latin_1_string_is_named(operator):
    found = operator.write(b"x = 1\nx = 'm\xe4'\n")
    (problem,) = operator.run("fix").problems
    assert problem == f"{operator.path} cannot be evaluated: SyntaxError at line 2"
    assert operator.path.read_bytes() == found


UNSEEN = {
    # name: (what stands after our line, where it is said to be)
    "clear": ("mailroom.clear", 2),
    "replace": ("mailroom.replace({})", 2),
    "reject!": ("gitlab_rails.reject! { true }", 2),
    "transform_values!": ("mailroom.transform_values! { 1 }", 2),
    "the section as a whole": ("mailroom({'enable' => true})", 2),
    "the section as a whole, nil": ("mailroom(nil)", 2),
    "the section as a whole, by =": ("self.mailroom = {'enable' => true}", 2),
    "the section as a whole, with a symbol": ("mailroom(mailroom.merge(enable: true))", 2),
    "the module's key": ("Gitlab[:mailroom] = {}", 2),
    "the module's inside": ("configuration[:mailroom] = {}", "?"),
    "a value in place": ("gitlab_rails['incoming_email_host'] << 'x'", "?"),
    "Hash's own method": ("Hash.instance_method(:clear).bind_call(mailroom)", "?"),
    "eval": ("eval \"mailroom['enable'] = true\"", 2),
    "send": ("mailroom.send(:[]=, 'enable', true)", 2),
    "a thread": ("Thread.new { mailroom['enable'] = true }.join", 2),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("installed", [False, True])
def test_other_ways_to_undo_our_keys_are_named_too(operator, name, installed):
    if installed:
        operator.ours.write_text("mailroom['enable'] = false\ngitlab_rails['incoming_email_host'] = 'a'\n")
    text, line = UNSEEN[name]
    found = operator.write(f"@{text}\n")
    (problem,) = operator.run("fix").problems
    assert problem.startswith(
        f"{operator.path}:{line} sets {'gitlab_rails' if 'gitlab_rails' in text else 'mailroom'}['"
    )
    assert operator.path.read_bytes() == found


def test_a_key_set_after_the_section_was_set_as_a_whole(operator):
    operator.write("mailroom({'x' => 1})\n@mailroom['enable'] = true\n")
    (problem,) = operator.run("check").problems
    assert problem.startswith(f"{operator.path}:3 sets mailroom['enable'] after the line")


ENDS = {
    # name: (what ends more than the file, what is said); the package would stop there too
    "exit": ("exit", "SystemExit at line 2"),
    "exit!": ("exit! 0", "it ends the program that reads it"),
    "a signal": ("Process.kill(:KILL, $$)", "it ends the program that reads it"),
    "Mixlib's other words": ("reset", "NameError at line 2"),  # no operator does this: refused, not understood
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_package_is_named(operator, name):
    text, told = ENDS[name]
    found = operator.write(f"@{text}\n")
    assert operator.run("fix") == facts.Include(
        False, 1 if " at " in told else 0, (f"{operator.path} cannot be evaluated: {told}",)
    )
    assert operator.path.read_bytes() == found


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, False),
        (Answer(facts.NOT_INSTALLED, 0), False),
        (Answer("", 0), True),
        (Answer("", 1), True),
        (Answer("Killed", 137), True),
        (Answer(f"{SECRET}\n[]", 0), True),
        (Answer("{}", 0), True),
        (Answer("[1]", 0), True),
    ],
)
def test_no_answer_is_a_problem_but_on_a_node_without_the_package(answer, told):
    found = facts.include(NodeState(0.0, answers={"gitlab.include": answer} if answer else {}))
    assert not found.as_declared
    assert len(found.problems) == told
    assert SECRET not in "".join(found.problems)


def test_a_node_without_the_package_says_so():
    (question,) = [question for question in facts.questions(include=True) if question.key == "gitlab.include"]
    script = question.script.replace(facts.RUBY, "/nonexistent/ruby")
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout == b"not-installed\n"
