package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
)

const rewrapAbout = `Moves files to another KMS key: messages of cmkeeper of any length, and SOPS files, instruction files of the S3 Encryption Client, ciphertexts of Tink and of KMS and keysets of Tink up to 16 MiB. KMS ReEncrypt moves their data keys, so that neither these nor the data are decrypted here. All else of a file stays as it is, its owner and mode too.

Without --from, data keys under any key of the caller's account are moved, where the file says by ARN which that is. A file that names another account's key is not moved before --from names that key: who made it may be anybody, and under your own key it would be trusted. Aliases that a file names stay if they are the new key's, and become its ARN otherwise.

A file is replaced when the new one is whole. One that cannot be moved does not stop the others; the exit code is 1 then. A copy of the old file still opens under the old key, for as long as that key exists.

Takes kms:ReEncryptFrom on the old key, kms:ReEncryptTo on the new one, kms:DescribeKey and kms:ListAliases.`

type rewrapCommand struct {
	to             string
	from, context  []string
	unsure, dryRun bool
}

func newRewrapCommand(p *process) *cobra.Command {
	var c rewrapCommand
	command := &cobra.Command{
		Use: "rewrap FILE...", Short: "Move sealed files to another KMS key without decrypting them", Long: rewrapAbout,
		Example: "  cmkeeper envelope rewrap --to alias/app FILE",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return c.run(ctx, p, args) })(cmd, args)
		},
	}
	flags := command.Flags()
	flags.StringVar(&c.to, "to", "", "KMS `key` to move to: an alias, or a key's id or ARN")
	flags.StringArrayVar(&c.from, "from", nil, "move only data keys under this `key`, of whatever account; repeat it for several")
	flags.BoolVar(&c.unsure, "unsure", false, "move also what only looks like one of Tink or KMS; KMS tells")
	flags.StringArrayVar(&c.context, "context", nil, "for ciphertexts of KMS and keysets of Tink, which do not say theirs: "+contextUsage)
	flags.BoolVar(&c.dryRun, "dry-run", false, "ask KMS whether it would do it, and change nothing")
	_ = command.MarkFlagRequired("to")
	return command
}

// rewrapper re-wraps files.
type rewrapper struct {
	command *rewrapCommand
	process *process
	client  clientside.KMS
	account string
	move    clientside.Move
}

// run re-wraps one file after the other.
func (c *rewrapCommand) run(ctx context.Context, p *process, names []string) error {
	r := rewrapper{command: c, process: p}
	var err error
	if r.move.Context, err = parseContext(c.context); err != nil {
		return usageError{err}
	}
	if slices.Contains(names, "-") {
		return usageError{errors.New("rewrap replaces files: name some instead of standard input")}
	}
	hand, err := loadByHand(ctx, p, 1)
	if err != nil {
		return err
	}
	r.client, r.account = hand.kms, hand.account
	if c.dryRun {
		r.client = tried{hand.kms}
	}
	if err := r.keys(ctx, hand.facts); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.stdout, "To %s\n", r.move.To); err != nil {
		return err
	}
	failed := 0
	for _, name := range names {
		if ctx.Err() != nil {
			return fmt.Errorf("%s and what follows it are as they were: %w", alert.Escape(name), context.Cause(ctx))
		}
		what, err := r.file(ctx, name)
		if err != nil {
			failed++
			what = "NOT re-wrapped: " + alert.Escape(err.Error())
		}
		if _, err := io.WriteString(p.stdout, wrapTo(columns, what, alert.Escape(name)+": ", "    ")); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d files were not re-wrapped", failed, len(names))
	}
	return nil
}

// keys finds the keys that the options name.
func (r *rewrapper) keys(ctx context.Context, facts *inventory.Reader) error {
	find := func(option, name string) (inventory.Key, error) {
		k, err := facts.Key(ctx, name)
		if errors.Is(err, inventory.ErrAccessDenied) {
			err = fmt.Errorf("%w; this takes kms:DescribeKey", err)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", option, err)
		}
		return k, err
	}
	to, err := find("--to", r.command.to)
	if err != nil {
		return err
	}
	r.move.To = to.ARN
	if to.Account == r.account { // nobody lists the aliases of other accounts
		aliases, err := facts.AliasesOf(ctx, to.ARN)
		if errors.Is(err, inventory.ErrAccessDenied) {
			err = fmt.Errorf("%w; this takes kms:ListAliases", err)
		}
		if err != nil {
			return fmt.Errorf("--to: %w", err)
		}
		for _, a := range aliases {
			r.move.Aliases = append(r.move.Aliases, a.ARN)
		}
	}
	for _, name := range r.command.from {
		from, err := find("--from", name)
		if err != nil {
			return err
		}
		if from.ARN == to.ARN {
			return usageError{fmt.Errorf("--from %s and --to %s are the same key", name, r.command.to)}
		}
		r.move.From = append(r.move.From, from.ARN)
	}
	return nil
}

// file re-wraps a file, and says what was done.
func (r rewrapper) file(ctx context.Context, name string) (what string, err error) {
	path, err := filepath.EvalSymlinks(name) // a link stays one
	if err != nil {
		return "", err
	}
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a file")
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Nlink > 1 {
		return "", errors.New("the file has other names (hard links), which would keep the old one: re-wrap a copy")
	}
	found, _, err := recognise(in, info.Size())
	if err != nil {
		return "", advise(err, "")
	}
	move, err := r.moveOf(found)
	if err != nil {
		return "", err
	}
	if len(move.From) == 0 {
		return "already under that key", nil
	}
	out, err := found.Rewrap(ctx, r.client, move)
	if _, unreadable := errors.AsType[*types.InvalidCiphertextException](err); unreadable && found.Keys[0].ContextUnknown {
		return "", fmt.Errorf("%w; give the encryption context that it was encrypted with as --context, if it had one", err)
	}
	if err != nil {
		return "", advise(err, "kms:ReEncryptFrom on the old key and kms:ReEncryptTo on "+move.To)
	}
	if out.Moved == 0 {
		return "left as it is: no data key of it is under " + strings.Join(move.From, " or "), nil
	}
	what = "re-wrapped"
	if left := len(out.Keys) - out.Moved; left > 0 {
		what += fmt.Sprintf("; of its %d data keys, %d were not under a key that is moved, and stay", len(out.Keys), left)
	}
	if r.command.dryRun {
		return "would be " + what, nil
	}
	// What follows the header of a message has not been read yet; of others, nothing follows.
	rest, end := meter(ctx, r.process.stderr, in, info.Size())
	defer end()
	return what, placing{like: info}.write(path, func(to io.Writer) error {
		if _, err := to.Write(out.Body); err != nil {
			return err
		}
		if _, err := io.Copy(to, rest); err != nil {
			return err
		}
		return unchanged(path, info)
	})
}

// moveOf says what has to be moved of a file. From is empty where all is under To.
func (r rewrapper) moveOf(f clientside.Found) (clientside.Move, error) {
	move := r.move
	switch {
	case f.Format == clientside.None:
		return move, errors.New("it has none of the formats that are known")
	case f.Refusal != "":
		return move, errors.New(f.Refusal)
	case len(f.Keys) == 0:
		return move, errors.New("it has no data key that AWS KMS wrapped")
	case !f.Sure && !r.command.unsure:
		return move, fmt.Errorf("it looks like a %s, which may be chance: if it is one, say --unsure", formatNames[f.Format])
	case len(move.From) > 0:
		return move, nil
	}
	// Only the ARN of a key says under which key it is: an alias may have moved since, and what
	// is part of the context stays when the key changes.
	other, already := "", false
	for _, k := range f.Keys {
		switch account := arn.Account(k.Label); {
		case arn.KeyID(k.Label) == "", k.LabelInContext && k.Label == move.To:
			return r.move, errors.New("it does not say by ARN under which key it is: name that key with --from")
		case k.Label == move.To:
			already = true
		case account != r.account:
			other = fmt.Sprintf("it is under %s, of another account: if it is yours, name that key with --from", k.Label)
		case !slices.Contains(move.From, k.Label):
			move.From = append(move.From, k.Label)
		}
	}
	if len(move.From) == 0 && !already {
		return move, errors.New(other)
	}
	return move, nil
}

// unchanged makes sure that nobody wrote the file since it was opened.
func unchanged(path string, before fs.FileInfo) error {
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(before, now) || before.Size() != now.Size() || !before.ModTime().Equal(now.ModTime()) {
		return errors.New("somebody has written the file meanwhile: try again")
	}
	return nil
}

// tried asks KMS whether it would do what it is asked.
type tried struct{ client clientside.KMS }

// ReEncrypt returns another ciphertext where KMS would. It is none of KMS's, and not to be
// written. AWS says that a dry run fails as the call would; whether it also looks at the
// ciphertext, and so at whether that is under the source key, is not documented.
func (t tried) ReEncrypt(ctx context.Context, in *kms.ReEncryptInput, o ...func(*kms.Options)) (*kms.ReEncryptOutput, error) {
	dry := *in
	dry.DryRun = aws.Bool(true)
	_, err := t.client.ReEncrypt(ctx, &dry, o...)
	if _, would := errors.AsType[*types.DryRunOperationException](err); !would {
		if err == nil {
			err = errors.New("KMS answered a dry run as if it was none")
		}
		return nil, err
	}
	other := bytes.Clone(in.CiphertextBlob)
	if n := len(other); n > 0 {
		other[n-1] ^= 1
	}
	return &kms.ReEncryptOutput{CiphertextBlob: other, SourceKeyId: in.SourceKeyId, KeyId: in.DestinationKeyId}, nil
}
