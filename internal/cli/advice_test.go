package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/internal/awscli"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// advised is a command that a text of the program advises.
type advised struct {
	// where is the file and line.
	where string
	// settings are the NAME=value before the command, words what follows the program's name.
	settings, words []string
	// whole: the text is the command and nothing else. Otherwise it is as much of a sentence
	// as belongs to a command.
	whole bool
}

// collector finds the commands that the module's files advise: in the program's string
// literals, in the documents, and in recorded alerts.
type collector struct {
	root      *cobra.Command
	ours, aws []advised
}

// collect reads all files of the module.
func collect(t *testing.T) *collector {
	t.Helper()
	c := &collector{root: newRootCommand(&process{environment: map[string]string{}}, nil)}
	c.root.InitDefaultCompletionCmd()
	const module = "../.."
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(module, path)
		switch {
		case err != nil:
			return err
		// The other side of the SDK, and what makes releases, tell nobody what to do.
		case d.IsDir() && (name == ".git" || name == "release" || name == "internal/localaws" || name == "handlers/testdata/fuzz"):
			return filepath.SkipDir
		case d.IsDir():
		case strings.HasSuffix(name, "_test.go"):
		case strings.HasSuffix(name, ".go"):
			c.source(t, path, name)
		case slices.Contains([]string{".md", ".yaml", ".yml", ".sh", ".tf"}, filepath.Ext(name)):
			c.document(name, string(must(os.ReadFile(path))(t)))
		case slices.Contains([]string{".json", ".jsonl", ".golden", ".txt"}, filepath.Ext(name)):
			c.recorded(name, string(must(os.ReadFile(path))(t)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// find returns the command that words name, and the words after its name. It is the root
// for words that name none.
func (c *collector) find(words []string) (*cobra.Command, []string) {
	at := c.root
	for len(words) > 0 {
		i := slices.IndexFunc(at.Commands(), func(sub *cobra.Command) bool { return sub.Name() == words[0] })
		if i < 0 {
			break
		}
		at, words = at.Commands()[i], words[1:]
	}
	return at, words
}

// placeholder matches a word that the reader replaces.
var placeholder = regexp.MustCompile(`^[A-Z][A-Z0-9-]*(?:@[0-9N]+)?$`)

// add adds a command. One in a sentence ends at the first word that is neither an option,
// nor an option's value, nor a placeholder; and without options or arguments it only names
// the command, and may take more.
func (c *collector) add(where string, settings, words []string, whole bool) {
	words = chosen(words)
	named, rest := c.find(words)
	if named == c.root {
		if whole && len(words) > 0 && regexp.MustCompile(`^[a-z-]+$`).MatchString(words[0]) {
			c.ours = append(c.ours, advised{where, settings, words, true})
		}
		return // a sentence about cmkeeper
	}
	if !whole {
		n := 0
		for n < len(rest) {
			name, isFlag := strings.CutPrefix(rest[n], "--")
			name = strings.TrimRight(name, ".,:;)")
			switch flag := named.Flags().Lookup(name); {
			case isFlag && flag != nil && flag.NoOptDefVal == "" && n+1 < len(rest):
				rest[n], n = "--"+name, n+2
				continue
			case isFlag:
				rest[n], n = "--"+name, n+1
				continue
			case placeholder.MatchString(rest[n]):
				n++
				continue
			}
			break
		}
		if rest = rest[:n]; len(rest) == 0 {
			return
		}
	}
	path := strings.Fields(named.CommandPath())[1:]
	c.ours = append(c.ours, advised{where, settings, append(path, rest...), whole})
}

// mention matches a command in a text, with what quotes it.
var mention = regexp.MustCompile("([\"`(]?)((?:[A-Z][A-Z0-9_]*=[^\\s\"`]+ )*)\\bcmkeeper ([a-z][^\\n]*)")

// text adds what a text on one line mentions: the whole between quotes, otherwise as much as
// is a command.
func (c *collector) text(where, line string) {
	for {
		m := mention.FindStringSubmatchIndex(line)
		if m == nil {
			return
		}
		quote, settings, rest := line[m[2]:m[3]], line[m[4]:m[5]], line[m[6]:m[7]]
		line = rest
		quoted, _, ended := strings.Cut(rest, quote)
		if quoted = strings.TrimSuffix(quoted, `\`); quote == "" || quote == "(" || !ended {
			c.add(where, strings.Fields(settings), shellWords(rest), false)
			continue
		}
		words := chosen(shellWords(quoted))
		if _, more := c.find(words); len(more) > 0 {
			c.add(where, strings.Fields(settings), words, true)
		}
	}
}

// shownLine matches a line that is a command: after a prompt, as a step of an alert, or
// indented in a text of several lines.
var shownLine = regexp.MustCompile(`^\s*(\d+\. |\$ |  )((?:[A-Z][A-Z0-9_]*=\S+ )*)(cmkeeper|aws) ([a-z].*)$`)

// line adds a line of a document or of a text of several lines.
func (c *collector) line(where, line string, command bool) {
	m := shownLine.FindStringSubmatch(line)
	if command && m == nil {
		m = shownLine.FindStringSubmatch("$ " + line)
	}
	switch {
	case m == nil:
		c.text(where, line)
	case m[3] == "aws":
		c.aws = append(c.aws, advised{where, nil, shellWords(m[4]), true})
	default:
		words := shellWords(m[4])
		named, _ := c.find(words)
		c.add(where, strings.Fields(m[2]), words, m[1] != "  " || named != c.root) // else a line of a sentence
	}
}

// document adds what a document shows and mentions. In a block of code for a shell each
// line may be a command, and one with a backslash at its end goes on.
func (c *collector) document(name, text string) {
	fence, before := "", ""
	for i, line := range strings.Split(text, "\n") {
		where := fmt.Sprintf("%s:%d", name, i+1)
		if mark, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
			if fence == "" {
				fence = "`" + mark
			} else {
				fence = ""
			}
			continue
		}
		if goesOn, ok := strings.CutSuffix(line, `\`); ok && fence != "" {
			before += goesOn
			continue
		}
		c.line(where, before+line, slices.Contains([]string{"`console", "`bash", "`sh", "`shell"}, fence))
		before = ""
	}
}

// recordedCommand matches a member or step of a recorded alert that is a command.
var recordedCommand = regexp.MustCompile(`(?m)(?:"|^ *\d+\. )(cmkeeper|aws) ([a-z][^"\n]*)`)

// recorded adds the next steps of recorded alerts.
func (c *collector) recorded(name, text string) {
	for _, m := range recordedCommand.FindAllStringSubmatch(text, -1) {
		words, err := awscli.Words(strings.ReplaceAll(m[2], `\u003e`, ">"))
		if n := len(words); err != nil || n == 0 {
			continue // a sentence
		} else if n > 2 && words[n-2] == ">" {
			words = words[:n-2]
		}
		if m[1] == "aws" {
			c.aws = append(c.aws, advised{name, nil, words, true})
		} else if named, _ := c.find(words); named != c.root && named.Runnable() && !strings.HasSuffix(m[2], ".") {
			c.add(name, nil, words, true)
		}
	}
}

// wrappers are the functions that make commands of formats, by their names. LookupCommand
// takes an attribute, and ReencryptCommands flags of reencrypt.Envelopes, which are added to
// a format that is collected.
var wrappers = []string{"PolicyCommand", "KMSCommand", "LookupCommand", "ReencryptCommands"}

// source adds what the literals of a source file advise.
func (c *collector) source(t *testing.T, path, name string) {
	t.Helper()
	set := token.NewFileSet()
	file := must(parser.ParseFile(set, path, nil, 0))(t)
	taken := map[ast.Node]bool{}
	at := func(n ast.Node) string { return fmt.Sprintf("%s:%d", name, set.Position(n.Pos()).Line) }
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		for _, p := range f.Type.Params.List {
			if of, ok := p.Type.(*ast.SelectorExpr); ok && of.Sel.Name == "Format" && !slices.Contains(wrappers, f.Name.Name) {
				t.Errorf("%s: %s takes a command.Format: say here how its commands are collected", at(p), f.Name.Name)
			}
		}
		// What is added to a format later belongs to it.
		added := map[string]string{}
		ast.Inspect(f, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok && a.Tok == token.ADD_ASSIGN {
				if to, ok := a.Lhs[0].(*ast.Ident); ok {
					more, _ := literal(a.Rhs[0])
					added[to.Name] += more
				}
			}
			return true
		})
		ast.Inspect(f, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok && a.Tok == token.DEFINE && len(a.Lhs) == 1 {
				to, named := a.Lhs[0].(*ast.Ident)
				call, isCall := a.Rhs[0].(*ast.CallExpr)
				if named && isCall && called(call) == "Format" && len(call.Args) == 1 {
					if s, ok := literal(call.Args[0]); ok {
						c.format(at(n), s+added[to.Name], nil)
						taken[call.Args[0]] = true
					}
				}
			}
			return true
		})
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec, *ast.Field:
			if f, ok := n.(*ast.Field); ok && f.Tag != nil {
				tag := must(strconv.Unquote(f.Tag.Value))(t)
				c.text(at(n), tag)
			}
			_, isField := n.(*ast.Field)
			return isField
		case *ast.BinaryExpr: // a part of a command, or of a sentence
			if s, ok := literal(n.X); ok && n.Op == token.ADD && strings.HasPrefix(s, "cmkeeper ") && strings.HasSuffix(s, " ") {
				taken[n.X] = true
			}
		case *ast.CallExpr:
			if len(n.Args) == 0 {
				return true
			}
			s, ok := literal(n.Args[0])
			if !ok || taken[n.Args[0]] {
				return true
			}
			switch called(n) {
			case "Line", "Format":
				c.format(at(n), s, n.Args[1:])
				taken[n.Args[0]] = true
			case "PolicyCommand":
				words, file, into := strings.Cut("cmkeeper policy "+s, " > ")
				if words += " --state-bucket BUCKET"; into {
					words += " > " + file
				}
				c.format(at(n), words, n.Args[1:])
				taken[n.Args[0]] = true
			case "KMSCommand":
				operation, options, _ := strings.Cut(s, " ")
				c.format(at(n), strings.TrimSpace("aws kms "+operation+" --key-id KEY --region REGION "+options), n.Args[1:])
				taken[n.Args[0]] = true
			}
		case *ast.BasicLit:
			s, ok := literal(n)
			if !ok || taken[n] {
				return true
			}
			lines := strings.Split(s, "\n")
			for i, line := range lines {
				words := shellWords(strings.TrimPrefix(line, "cmkeeper "))
				if named, rest := c.find(words); len(lines) == 1 && strings.HasPrefix(line, "cmkeeper ") && named.Runnable() && len(rest) == 0 {
					c.add(at(n), nil, words, true)
				} else {
					c.line(fmt.Sprintf("%s+%d", at(n), i), line, false)
				}
			}
		}
		return true
	})
}

// format adds a command with %s in the place of values, whose forms the arguments say.
func (c *collector) format(where, format string, values []ast.Expr) {
	for i := 0; strings.Contains(format, "%s"); i++ {
		value := "VALUE"
		if i < len(values) {
			value = formOf(values[i])
		}
		format = strings.Replace(format, "%s", value, 1)
	}
	switch program, rest, _ := strings.Cut(format, " "); program {
	case "cmkeeper":
		c.add(where, nil, shellWords(rest), true)
	case "aws":
		c.aws = append(c.aws, advised{where, nil, shellWords(rest), true})
	}
}

// formOf returns the placeholder for a value by the form that makes it, such as
// command.Key(x) or command.Job(x).Or("JOB").
func formOf(value ast.Expr) string {
	forms := map[string]string{
		"Key": "KEY", "KeyID": "KEY", "BucketKey": "KEY", "Bucket": "BUCKET", "Job": "JOB", "Alias": "ALIAS",
		"BaselineOf": "KEY@1", "DiffSource": "baseline:KEY@1", "Document": "{}", "Number": "7",
	}
	found := "VALUE"
	ast.Inspect(value, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && found == "VALUE" {
			if form, ok := forms[called(call)]; ok {
				found = form
			}
		}
		return true
	})
	return found
}

// called is the name of the function that is called.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal returns the text of a string literal.
func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// shellWords are the words of a command, up to where a shell would end it: a pipe, a file
// that the output goes to, a comment.
func shellWords(line string) []string {
	var words []string
	word, started, quote := "", false, rune(0)
	end := func() {
		if started {
			words = append(words, word)
		}
		word, started = "", false
	}
	line = strings.ReplaceAll(line, `\|`, "|")
	for i, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			started, quote = true, r
		case r == ' ':
			end()
		case !started && (strings.HasPrefix(line[i:], "| ") || strings.HasPrefix(line[i:], "> ") || strings.HasPrefix(line[i:], "&& ") || r == '#' || r == '(' || r == '<'):
			return words
		default:
			started = true
			word += string(r)
		}
	}
	end()
	return words
}

// chosen are the words of one of our commands: of what documents write for one of several
// things the first, without brackets.
func chosen(words []string) []string {
	var all []string
	for _, w := range words {
		if w, _, _ = strings.Cut(strings.TrimSuffix(strings.Trim(w, "[]{}"), "…"), "|"); w != "" {
			all = append(all, strings.TrimSuffix(w, "..."))
		}
	}
	return all
}

// adviceWorld is an account in which what the commands name is there.
type adviceWorld struct {
	*account
	oldKey, newKey, job string
	// files are what stands for a file's name, by the command that reads it.
	files map[string]string
}

func newAdviceWorld(t *testing.T, a *account) *adviceWorld {
	w := &adviceWorld{account: a}
	w.enter()
	w.oldKey, w.newKey = w.account.newKey(appAlias), w.account.newKey("")
	w.fill("app-data", appAlias, 3)
	if err := w.start().stop(); err != nil { // it has swept, and recorded good policies
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	succeed := func(args ...string) string {
		var out, errs bytes.Buffer
		if code := w.account.run(args, w.environ(), &out, &errs); code != exitOK {
			t.Fatalf("%q: exit code %d: %s", args, code, errs.String())
		}
		return out.String()
	}
	w.files = map[string]string{
		"policy":    must(filepath.Abs("testdata/policies/best.json"))(t),
		"replay":    write("event.json", event("kms.amazonaws.com", "DisableKeyRotation", w.oldKey)),
		"reencrypt": write("plan.json", succeed("reencrypt", "plan", "--alias", appAlias, "--to", w.newKey, "--json")),
		"":          filepath.Join(dir, "out"),
		// By the option that names the file.
		"envelope ": filepath.Join(dir, "sealed"), "envelope rules": write("rules.json", "{}"), "envelope metadata": write("head.json", "{}"),
	}
	succeed("envelope", "seal", "--key", appAlias, "--context", "tenant=a", w.files["policy"], w.files["envelope "])
	var jobs struct{ Jobs []string }
	started := succeed("reencrypt", "start", "--bucket", "app-data", "--from", w.oldKey, "--to", w.newKey, "--json")
	if err := json.Unmarshal([]byte(started), &jobs); err != nil || len(jobs.Jobs) != 1 {
		t.Fatalf("%v, the jobs: %s", err, started)
	}
	w.job = jobs.Jobs[0]
	return w
}

// environ is the environment of the fleet's members.
func (w *adviceWorld) environ() (all []string) {
	for name, value := range w.box.WorkerEnvironment("*") {
		all = append(all, name+"="+value)
	}
	return all
}

var (
	aKey      = regexp.MustCompile(`^(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(?:key/[0-9a-z-]+|alias/.+)|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|alias/[^*]+|(?:OLD-|NEW-)?KEY(?:-ID|-ARN)?|ALIAS|VALUE|OLD|NEW)$`)
	aJob      = regexp.MustCompile(`^(?:\d{8}-[0-9a-f]{12}|[0-9a-f]{24}|JOB|ID|VALUE)$`)
	ofVersion = regexp.MustCompile(`^(baseline:)?([^@]+)(@[0-9]+|@N)?$`)
)

// meant puts what there is in the account in the places of what a command names. flag is the
// option that the word is the value of, "" for an argument.
func (w *adviceWorld) meant(group, flag, word string) string {
	switch {
	case flag == "bucket":
		return "app-data"
	case flag == "state-bucket":
		return sandbox.StateBucket
	case flag == "to":
		return w.newKey
	case flag == "from":
		return w.oldKey
	case flag == "yes-i-checked":
		return w.oldKey[strings.LastIndexByte(w.oldKey, '/')+1:]
	case flag == "plan":
		return w.files["reencrypt"]
	case flag == "alias" && !strings.Contains(word, "*"):
		return appAlias
	case flag == "out" || flag == "report":
		return w.files[""]
	case group == "envelope" && w.files["envelope "+flag] != "":
		return w.files["envelope "+flag]
	case flag == "prefix":
		return "object-"
	case flag == "principal":
		return iamARN + "root"
	case flag != "":
		return word
	case strings.HasSuffix(word, ".json") || word == "FILE" || group == "policy" && (word == "OLD" || word == "NEW"):
		return w.files[group]
	case group != "policy" && group != "retire" && group != "keys" && aJob.MatchString(word):
		return w.job
	}
	if m := ofVersion.FindStringSubmatch(word); m != nil && aKey.MatchString(m[2]) {
		key := w.oldKey
		if strings.Contains(m[2], "lias") || m[2] == "ALIAS" {
			key = appAlias
		}
		if m[3] != "" {
			m[3] = "@1"
		}
		return m[1] + key + m[3]
	}
	return word
}

// filled returns the command's words for the account.
func (w *adviceWorld) filled(c *collector, words []string) []string {
	named, rest := c.find(words)
	filled := slices.Clone(words)
	at, flag := len(words)-len(rest), ""
	for i := at; i < len(words); i++ {
		name, isFlag := strings.CutPrefix(words[i], "--")
		switch f := named.Flags().Lookup(name); {
		case isFlag:
			if flag = ""; f != nil && f.NoOptDefVal == "" {
				flag = name
			}
		default:
			filled[i], flag = w.meant(words[0], flag, words[i]), ""
		}
	}
	return filled
}

// run runs a command as the fleet's variables are set; without them where it says itself
// which state bucket it is about. Where it would run until it is stopped, it is stopped
// at once: its command line is right if nothing else is wrong.
func (w *adviceWorld) run(words, settings []string) (code int, errs string) {
	ctx, stop := context.WithCancel(w.t.Context())
	defer stop()
	if goesOn := []string{"worker", "demo", "local", "watch", "rotate"}; !slices.Contains(words, "--dry-run") && slices.ContainsFunc(words[:min(2, len(words))], func(word string) bool { return slices.Contains(goesOn, word) }) {
		stop()
	}
	environ := w.environ()
	if slices.Contains(words, "--state-bucket") || words[0] == "local" {
		environ = nil
	}
	if words[0] == "local" {
		words = append(slices.Clone(words), "--addr", "127.0.0.1:0")
	}
	var stderr bytes.Buffer
	// A worker adapts the collector of its process, which here is the tests'.
	p := newProcess(append(environ, append(settings, "GOGC=100", "GOMEMLIMIT=off")...), &bytes.Buffer{}, &stderr)
	p.aws = w.aws
	code = p.run(ctx, words)
	if ctx.Err() != nil && strings.Contains(stderr.String(), context.Canceled.Error()) {
		code = exitError
	}
	return code, stderr.String()
}

// check says what is wrong with a command; "" for nothing.
func (w *adviceWorld) check(c *collector, one advised) string {
	if named, _ := c.find(one.words); !named.Runnable() {
		return "it is no whole command"
	}
	filled := w.filled(c, one.words)
	for _, word := range filled {
		if placeholder.MatchString(word) && word != "{}" {
			return fmt.Sprintf("nothing is known to put in the place of %s: see meant", word)
		}
	}
	if code, errs := w.run(filled, one.settings); code == exitUsage {
		return fmt.Sprintf("exit code %d of %q: %s", code, filled, errs)
	}
	return ""
}

// TestAdvisedCommands runs every command that a text of the program or of its documents
// advises in an account that has what it names. It may fail there, but its command line has
// to be right.
func TestAdvisedCommands(t *testing.T) {
	c := collect(t)
	inAccountAlone(t, func(t *testing.T, a *account) {
		w := newAdviceWorld(t, a)
		t.Chdir(t.TempDir())
		from, done := map[string]int{}, map[string]bool{}
		for _, one := range c.ours {
			from[filepath.Ext(strings.SplitN(one.where, ":", 2)[0])]++
			line := strings.Join(append(slices.Clone(one.settings), one.words...), " ")
			if done[line] {
				continue
			}
			done[line] = true
			if wrong := w.check(c, one); wrong != "" {
				t.Errorf("%s advises cmkeeper %s: %s", one.where, line, wrong)
			}
		}
		for _, kind := range []string{".go", ".md", ".json"} {
			if from[kind] == 0 {
				t.Errorf("no command is found in a file %s, of %v", kind, from)
			}
		}
		t.Logf("%d commands, by files: %v", len(done), from)
		for line, want := range map[string]string{
			"reencrypt plan --bucket BUCKET": "exit code 2", "reencrypt plan --bukket b": "exit code 2", "retire check": "exit code 2", "sing": "exit code 2",
			"alerts": "no whole command", "keys NOBODY-KNOWS": "nothing is known",
		} {
			if wrong := w.check(c, advised{words: strings.Fields(line)}); !strings.Contains(wrong, want) {
				t.Errorf("of %q it is said: %q", line, wrong)
			}
		}
	})
}

// TestAdvisedAWSCommands checks every command of the AWS CLI in the same places.
func TestAdvisedAWSCommands(t *testing.T) {
	c := collect(t)
	done := map[string]bool{}
	for _, one := range c.aws {
		if line := strings.Join(one.words, " "); !done[line] {
			done[line] = true
			if err := awscli.Check(one.words); err != nil {
				t.Errorf("%s advises aws %s: %v", one.where, line, err)
			}
		}
	}
	if len(done) < 50 {
		t.Errorf("only %d commands are found", len(done))
	}
	t.Logf("%d commands", len(done))
}

// TestCollector: what is a command, and what is a sentence about cmkeeper.
func TestCollector(t *testing.T) {
	root := newRootCommand(&process{environment: map[string]string{}}, nil)
	for text, want := range map[string][]string{
		"cmkeeper keeps keys":                               nil,
		"cmkeeper retire schedule checked the key":          nil,
		"- `cmkeeper retire check KEY` looks":               {"retire check KEY"},
		"in cmkeeper report --csv.":                         {"report --csv"},
		`see "cmkeeper alerts lost --all" and "cmkeeper x"`: {"alerts lost --all", "x"},
		"  2. cmkeeper policy diff baseline:a@1 a > x.json": {"policy diff baseline:a@1 a"},
		"$ cmkeeper keys --tag 'a b'   # a comment":         {"keys --tag a b"},
		"$ A=b cmkeeper local | cat":                        {"A=b local"},
		"| `cmkeeper policy check FILE\\|KEY…`, `diff`":     {"policy check FILE"},
	} {
		c := &collector{root: root}
		c.line("", text, false)
		var got []string
		for _, one := range c.ours {
			got = append(got, strings.Join(append(one.settings, one.words...), " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
