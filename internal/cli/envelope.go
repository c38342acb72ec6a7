package cli

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

const envelopeAbout = `Encrypts files under KMS keys, in a format that moves to another key without being decrypted, and does the latter for the files of others: SOPS, Tink, instruction files of the S3 Encryption Client, ciphertexts of KMS.

A FILE may be - for standard input or output, of any length. A file gets its name when it is whole; what a killed process leaves is called .cmkeeper-….`

func newEnvelopeCommand(p *process) *cobra.Command {
	command := &cobra.Command{Use: "envelope", Short: "Seal and open files, and inspect and re-wrap what is sealed", Long: envelopeAbout}
	command.AddCommand(newSealCommand(p), newOpenCommand(p), newInspectCommand(p), newRewrapCommand(p))
	return command
}

const sealAbout = `Encrypts IN into OUT under a data key of a KMS key, bound to an encryption context. Without OUT it writes to standard output.

The context says what the message is for, and is not secret: its header and CloudTrail show it. Who opens the message has to give the same. Name an alias rather than a key: what is sealed after the alias has moved is under the new key.

OUT is readable by its owner only. Where standard output broke off, its reader has a message without its end, which does not open. Takes kms:GenerateDataKey.`

const openAbout = `Decrypts the message IN into OUT. Without OUT it writes to standard output.

OUT gets its name when all of it is authenticated. To standard output each chunk goes when it is authenticated, before it is known whether the message has its end: use it only if the exit code is 0.

Give the context that you expect, not the one in the message: an attacker who can replace the file can put another message there that you may also open. With --any-context you take that risk; the context is shown on standard error. For the same reason the message has to be under a key of your account, unless --trust names others. Takes kms:Decrypt.`

// sealFlags are the flags of seal and open.
type sealFlags struct {
	key, rules string
	context    []string
	anyContext bool
	trust      []string
	force      bool
}

func (f *sealFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&f.context, "context", nil, contextUsage)
	flags.StringVar(&f.rules, "rules", "", "`file` of JSON that says which contexts are allowed: {\"required\": [\"tenant\"], \"values\": {\"purpose\": [\"backups\"]}}")
	flags.BoolVarP(&f.force, "force", "f", false, "replace OUT where it exists")
}

const contextUsage = "encryption context, `NAME=VALUE,…`; an attribute with a comma goes between double quotes"

func newSealCommand(p *process) *cobra.Command {
	var f sealFlags
	command := &cobra.Command{
		Use: "seal IN [OUT]", Short: "Encrypt a file under a KMS key", Long: sealAbout,
		Example: "  cmkeeper envelope seal --key alias/app --context tenant=a,purpose=backups IN OUT",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return f.seal(ctx, p, args) })(c, args)
		},
	}
	f.add(command)
	command.Flags().StringVar(&f.key, "key", "", "KMS `key` to seal under: an alias, or a key's id or ARN")
	for _, name := range []string{"key", "context"} {
		_ = command.MarkFlagRequired(name)
	}
	return command
}

func newOpenCommand(p *process) *cobra.Command {
	var f sealFlags
	command := &cobra.Command{
		Use: "open IN [OUT]", Short: "Decrypt what was sealed", Long: openAbout,
		Example: "  cmkeeper envelope open --context tenant=a,purpose=backups IN OUT",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return f.open(ctx, p, args) })(c, args)
		},
	}
	f.add(command)
	command.Flags().BoolVar(&f.anyContext, "any-context", false, "take the context that the message has, and show it")
	command.Flags().StringArrayVar(&f.trust, "trust", nil, "`ARN` of a KMS key, or account whose keys all may be trusted, instead of the caller's account; repeat it for several")
	command.MarkFlagsMutuallyExclusive("context", "any-context")
	command.MarkFlagsOneRequired("context", "any-context")
	return command
}

// parseContext reads an encryption context of NAME=VALUE,….
func parseContext(given []string) (map[string]string, error) {
	all := map[string]string{}
	for _, one := range given {
		r := csv.NewReader(strings.NewReader(one))
		attributes, err := r.Read()
		if err != nil {
			return nil, fmt.Errorf("--context %q is not NAME=VALUE,…; an attribute with a comma goes between double quotes: %w", one, err)
		}
		if _, err := r.Read(); !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("--context %q has several lines: put an attribute with a line break between double quotes", one)
		}
		for _, attribute := range attributes {
			name, value, ok := strings.Cut(attribute, "=")
			if !ok || name == "" || value == "" {
				return nil, fmt.Errorf("--context: %q is not NAME=VALUE", attribute)
			}
			if _, twice := all[name]; twice {
				return nil, fmt.Errorf("--context has %q twice: give it one value", name)
			}
			all[name] = value
		}
	}
	return all, nil
}

// prepare reads the context and the rules, and holds the one against the other.
func (f *sealFlags) prepare() (about map[string]string, rules envelope.Rules, err error) {
	if f.rules != "" {
		text, err := os.ReadFile(f.rules)
		if err == nil {
			rules, err = envelope.ParseRules(text)
		}
		if err != nil {
			return nil, rules, usageError{fmt.Errorf("--rules %s: %w", f.rules, err)}
		}
	}
	if f.anyContext {
		return nil, rules, nil
	}
	if about, err = parseContext(f.context); err == nil {
		err = rules.Check(about)
	}
	if err != nil {
		return nil, rules, usageError{err}
	}
	return about, rules, nil
}

// clients makes the clients; where account is "", STS is asked for it.
func clients(ctx context.Context, p *process, account string) (byHand, error) {
	settings, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		return byHand{}, err
	}
	return newByHandIn(ctx, p, settings, 1, account)
}

// seal encrypts a file.
func (f *sealFlags) seal(ctx context.Context, p *process, names []string) error {
	about, rules, err := f.prepare()
	if err != nil {
		return err
	}
	work, err := newWork(p, names, f.force)
	if err != nil {
		return err
	}
	if work.terminal() {
		return usageError{errors.New("what is sealed is not for a terminal: name OUT, or redirect standard output")}
	}
	hand, err := clients(ctx, p, arn.Account(f.key))
	if err != nil {
		return err
	}
	sealer, err := envelope.New(hand.kms, f.key, envelope.Options{Rules: rules, Trusted: []string{hand.account}})
	if err != nil {
		return usageError{fmt.Errorf("--key: %w", err)}
	}
	defer sealer.Close()
	err = work.run(ctx, p, func(to io.Writer, from io.Reader) error {
		message, err := sealer.NewWriter(ctx, to, about)
		if err != nil {
			return advise(err, "kms:GenerateDataKey on "+f.key)
		}
		if _, err := io.Copy(message, from); err != nil {
			return err
		}
		return message.Close()
	})
	if err != nil && work.written > 0 {
		err = fmt.Errorf("%w; what was written to standard output is a message without its end, which does not open", err)
	}
	return err
}

// open decrypts a message.
func (f *sealFlags) open(ctx context.Context, p *process, names []string) error {
	about, rules, err := f.prepare()
	if err != nil {
		return err
	}
	// What the options say is checked before a file is read.
	if _, err := envelope.New(nil, "any", envelope.Options{Rules: rules, Trusted: append([]string{}, f.trust...)}); err != nil {
		return usageError{fmt.Errorf("--trust: %w", err)}
	}
	work, err := newWork(p, names, f.force)
	if err != nil {
		return err
	}
	err = work.run(ctx, p, func(to io.Writer, from io.Reader) error {
		var first bytes.Buffer
		header, err := envelope.ReadHeader(io.TeeReader(from, &first))
		if err != nil {
			return advise(err, "")
		}
		if f.anyContext {
			about = header.Context
			fmt.Fprintf(p.stderr, "encryption context: %s\n", contextText(about))
		}
		var account string
		if len(f.trust) > 0 {
			account = f.trust[0] // STS need not be asked
		}
		hand, err := clients(ctx, p, account)
		if err != nil {
			return err
		}
		trusted := f.trust
		if trusted == nil {
			trusted = []string{hand.account}
		}
		sealer, err := envelope.New(hand.kms, header.KeyARN, envelope.Options{Rules: rules, Trusted: trusted})
		if err != nil {
			return err
		}
		defer sealer.Close()
		message, err := sealer.NewReader(ctx, io.MultiReader(&first, from), about)
		if err != nil {
			return advise(err, "kms:Decrypt on "+header.KeyARN)
		}
		_, err = io.Copy(to, message)
		return advise(err, "")
	})
	if err != nil && work.written > 0 {
		err = fmt.Errorf("%w; the %d bytes that were written to standard output are only a beginning, and must not be used as the whole", err, work.written)
	}
	return err
}

// contextText shows an encryption context on one line.
func contextText(about map[string]string) string {
	return strings.Join(contextLines(about), ", ")
}

// advise adds to an error of package envelope or of KMS what to do about it. denied is what
// the caller has to be allowed.
func advise(err error, denied string) error {
	code := ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
	}
	is := func(ours error, codes ...string) bool { return errors.Is(err, ours) || slices.Contains(codes, code) }
	var advice string
	switch {
	case err == nil:
		return nil
	case is(envelope.ErrNotEnvelope):
		advice = "cmkeeper envelope inspect FILE says what it is, if it is of a known format"
	case is(envelope.ErrVersion):
		advice = "use a newer cmkeeper"
	case is(envelope.ErrContext):
		advice = "cmkeeper envelope inspect FILE shows its context; if that is not the one you expect, it is not the file you expect"
	case code == "NotFoundException":
		advice = "see that the key's name is right (an alias begins with alias/), and that AWS_REGION is the key's Region"
	case is(envelope.ErrKeyUnusable, "DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException"):
		advice = "enable the key or cancel its deletion, and see that AWS_REGION is the key's Region"
	case is(envelope.ErrDenied, "AccessDeniedException") && denied != "":
		advice = "this takes " + denied + ", by the key policy or by IAM"
	case is(envelope.ErrKey, "IncorrectKeyException"):
		advice = "if it may be under that key, name the key or its account with --trust; otherwise its header was changed: do not use it"
	case is(envelope.ErrTampered, "InvalidCiphertextException"):
		advice = "do not use it: take the file from a backup"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}

// work is a file, or standard input, that becomes another, or standard output.
type work struct {
	in, out string
	force   bool
	stdout  io.Writer
	// written is how much went to standard output.
	written int64
}

// newWork checks the names before anything is done.
func newWork(p *process, names []string, force bool) (*work, error) {
	w := &work{in: names[0], out: "-", force: force, stdout: p.stdout}
	if len(names) > 1 {
		w.out = names[1]
	}
	if w.out == "-" {
		return w, nil
	}
	info, err := os.Lstat(w.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return w, nil
	case err != nil:
		return nil, usageError{err}
	case !info.Mode().IsRegular():
		return nil, usageError{fmt.Errorf("%s is not a file that can be replaced: name another, or redirect standard output", w.out)}
	case !force:
		return nil, exists(w.out)
	}
	return w, nil
}

func exists(name string) error {
	return fmt.Errorf("%s exists: name another file, or replace it with --force", name)
}

// terminal reports whether the output is one.
func (w *work) terminal() bool {
	file, ok := w.stdout.(*os.File)
	return ok && w.out == "-" && term.IsTerminal(int(file.Fd()))
}

// Write writes to standard output.
func (w *work) Write(b []byte) (int, error) {
	n, err := w.stdout.Write(b)
	w.written += int64(n)
	return n, err
}

// run has f make the output of the input. Its error begins with the input's name.
func (w *work) run(ctx context.Context, p *process, f func(io.Writer, io.Reader) error) error {
	in, size, err := openInput(w.in)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	from, end := meter(ctx, p.stderr, in, size)
	defer end()
	whole := func(to io.Writer) error {
		if err := f(to, from); err != nil {
			return err
		}
		return context.Cause(ctx)
	}
	if w.out == "-" {
		err = whole(w)
	} else {
		err = placing{fresh: !w.force}.write(w.out, whole)
		if errors.Is(err, fs.ErrExist) {
			err = exists(w.out)
		}
	}
	if err != nil {
		name := w.in
		if name == "-" {
			name = "standard input"
		}
		return fmt.Errorf("%s: %w", alert.Escape(name), err)
	}
	return nil
}
