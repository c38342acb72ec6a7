package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/envelope"
)

const inspectAbout = `Says of files which format they have, under which KMS keys their data keys are wrapped, with which encryption context, and whether they can be moved to another key. It needs no key and asks nobody.

An object of the S3 Encryption Client shows by its metadata what it is: give what "aws s3api head-object" prints as --metadata, or its instruction file as FILE.

Nothing that a file says of itself is authenticated before it is opened.

Exit code 1: a file could not be read, or is damaged.`

type inspectCommand struct {
	metadata []string
	json     bool
}

func newInspectCommand(p *process) *cobra.Command {
	var c inspectCommand
	command := &cobra.Command{
		Use: "inspect [FILE...]", Short: "Say what sealed files are, and whether they can be moved to another key", Long: inspectAbout,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(_ context.Context, p *process) error { return c.run(p, args) })(cmd, args)
		},
	}
	flags := command.Flags()
	flags.StringArrayVar(&c.metadata, "metadata", nil, "`file` with an object's user metadata as JSON; repeat it for several")
	flags.BoolVar(&c.json, "json", false, "print one JSON object")
	return command
}

// envelopesSchema is the schema of inspect --json. Members may be added to it.
const envelopesSchema = "cmkeeper.envelopes.v1"

// inspectedJSON is the result of inspect.
type inspectedJSON struct {
	Schema string          `json:"schema"`
	Files  []inspectedFile `json:"files"`
}

// inspectedFile is what is known of a file.
type inspectedFile struct {
	File   string            `json:"file"`
	Format clientside.Format `json:"format"`
	// Sure: nothing else looks like this.
	Sure  bool             `json:"sure"`
	Bytes int64            `json:"bytes,omitempty"`
	Place clientside.Place `json:"place,omitempty"`
	Keys  []inspectedKey   `json:"keys"`
	// Moves: it can be moved to another KMS key. How and WhyNot say more.
	Moves  bool   `json:"moves"`
	How    string `json:"how,omitempty"`
	WhyNot string `json:"why_not,omitempty"`
	// Problem is why it could not be read, or what of it is damaged.
	Problem string `json:"problem,omitempty"`
}

// inspectedKey is a data key that KMS wrapped.
type inspectedKey struct {
	Label          string            `json:"label,omitempty"`
	LabelInContext bool              `json:"label_in_context,omitempty"`
	Context        map[string]string `json:"context,omitempty"`
	ContextUnknown bool              `json:"context_unknown,omitempty"`
	Bytes          int               `json:"wrapped_bytes"`
}

// run reads and prints.
func (c *inspectCommand) run(p *process, names []string) error {
	if len(names)+len(c.metadata) == 0 {
		return usageError{errors.New("name files, or an object's metadata with --metadata")}
	}
	all := inspectedJSON{Schema: envelopesSchema}
	for _, name := range names {
		found, size, err := inspect(name)
		all.Files = append(all.Files, inspected(name, found, size, err))
	}
	for _, name := range c.metadata {
		found, err := inspectMetadata(name)
		all.Files = append(all.Files, inspected(name, found, 0, err))
	}
	var err error
	if c.json {
		err = printJSON(p.stdout, all)
	} else {
		_, err = io.WriteString(p.stdout, all.text())
	}
	if err == nil && slices.ContainsFunc(all.Files, func(f inspectedFile) bool { return f.Problem != "" }) {
		err = errSilent
	}
	return err
}

func inspect(name string) (clientside.Found, int64, error) {
	in, size, err := openInput(name)
	if err != nil {
		return clientside.Found{}, 0, err
	}
	defer func() { _ = in.Close() }()
	found, size, err := recognise(in, size)
	if err == nil && found.Format == clientside.None && strings.HasSuffix(name, clientside.InstructionSuffix) {
		err = errors.New("it is called like an instruction file of the S3 Encryption Client, but is none that can be read")
	}
	return found, size, err
}

// recognise reads as much of in, which has size bytes (-1 where that is not known), as it
// takes to recognise what it is: of a message of package envelope the header, and no byte
// more, whatever the length of the data. Of such a message, what a re-wrap writes is the
// new header. Of anything else it reads up to clientside.MaxBody.
func recognise(in io.Reader, size int64) (clientside.Found, int64, error) {
	var first bytes.Buffer
	_, err := envelope.ReadHeader(io.TeeReader(in, &first))
	if err == nil {
		return clientside.ByContent(first.Bytes(), int64(first.Len())), max(size, 0), nil
	}
	if !errors.Is(err, envelope.ErrNotEnvelope) {
		return clientside.Found{}, max(size, 0), err
	}
	body, err := io.ReadAll(io.LimitReader(io.MultiReader(&first, in), clientside.MaxBody+1))
	if err != nil {
		return clientside.Found{}, 0, err
	}
	if read := int64(len(body)); read > clientside.MaxBody {
		if size = max(size, 0); size < read { // standard input, or a file that grows
			rest, err := io.Copy(io.Discard, in)
			if err != nil {
				return clientside.Found{}, 0, err
			}
			size = read + rest
		}
		return clientside.ByContent(body[:clientside.HeadSize], size), size, nil
	}
	found := clientside.ByContent(body, int64(len(body)))
	if found.Format == clientside.None {
		if file, err := clientside.ByInstructionFile(body); err == nil {
			found = file
		}
	}
	return found, int64(len(body)), nil
}

// inspectMetadata recognises an object by its metadata: an object of JSON with strings, or
// with a member Metadata that is one.
func inspectMetadata(name string) (clientside.Found, error) {
	in, _, err := openInput(name)
	if err != nil {
		return clientside.Found{}, err
	}
	defer func() { _ = in.Close() }()
	text, err := io.ReadAll(io.LimitReader(in, 1<<20)) // S3 allows 2 KB of metadata
	if err != nil {
		return clientside.Found{}, err
	}
	var head struct{ Metadata json.RawMessage }
	if json.Unmarshal(text, &head) == nil && bytes.HasPrefix(head.Metadata, []byte("{")) {
		text = head.Metadata
	}
	var given map[string]string
	if err := json.Unmarshal(text, &given); err != nil {
		return clientside.Found{}, errors.New("it is no metadata: give a JSON object of strings, or what aws s3api head-object prints")
	}
	metadata := map[string]string{}
	for name, value := range given {
		metadata[strings.TrimPrefix(strings.ToLower(name), "x-amz-meta-")] = value
	}
	return clientside.ByMetadata(metadata)
}

// inspected says of what was found whether and how it can be moved. err is why it could not
// be read.
func inspected(name string, f clientside.Found, size int64, err error) inspectedFile {
	out := inspectedFile{File: name, Format: f.Format, Sure: f.Sure, Bytes: size, Place: f.Place, Keys: []inspectedKey{}}
	for _, k := range f.Keys {
		out.Keys = append(out.Keys, inspectedKey{k.Label, k.LabelInContext, k.Context, k.ContextUnknown, len(k.Wrapped)})
	}
	switch {
	case err != nil:
		if pathError, ok := errors.AsType[*os.PathError](err); ok {
			err = pathError.Err
		}
		out.Problem = err.Error()
		if errors.Is(err, envelope.ErrVersion) || errors.Is(err, envelope.ErrTampered) {
			out.Problem = advise(err, "").Error()
		}
	case f.Format == clientside.None:
		out.WhyNot = "it has none of the formats that are known"
	case f.Refusal != "":
		out.WhyNot = f.Refusal
	case f.Partial && f.Place == clientside.InInstructionFile:
		out.WhyNot = "its data key is in the instruction file beside it: inspect that"
	case len(f.Keys) == 0:
		out.WhyNot = "it has no data key that AWS KMS wrapped"
	default:
		out.Moves, out.How = true, howToMove(f)
	}
	return out
}

// howToMove says how something is moved to another key.
func howToMove(f clientside.Found) string {
	rewrap := "rewrap"
	if !f.Sure {
		rewrap += " --unsure"
	}
	unknown := slices.ContainsFunc(f.Keys, func(k clientside.Key) bool { return k.ContextUnknown })
	switch {
	case f.Place == clientside.InMetadata:
		return "by a copy of the object with another wrapped key in its metadata"
	case f.Format == clientside.Envelope:
		return "rewrap replaces its header; its data stay as they are"
	case unknown && f.Format == clientside.TinkKeyset:
		return rewrap + " replaces the encrypted keyset in it; associated data, which it does not show, are given as --context associatedData=HEX"
	case unknown:
		return rewrap + " replaces all of it, with the encryption context, which it does not show, as --context"
	case f.Sure:
		return rewrap + " replaces the wrapped key in it"
	}
	return rewrap + " replaces the wrapped key in it, if it is what it looks like"
}

// formatNames are the formats for people.
var formatNames = map[clientside.Format]string{
	clientside.None: "none that is known", clientside.S3ClientV1: "object of the S3 Encryption Client, version 1", clientside.S3ClientV2: "object of the S3 Encryption Client, version 2",
	clientside.S3ClientV3: "object of the S3 Encryption Client, version 3", clientside.EncryptionSDK: "message of the AWS Encryption SDK", clientside.SOPS: "SOPS file",
	clientside.Tink: "ciphertext of Tink's KMS envelope AEAD", clientside.TinkKeyset: "keyset encrypted by Tink", clientside.Envelope: "message of cmkeeper", clientside.KMSCiphertext: "ciphertext of KMS",
}

// text is the result for people.
func (all inspectedJSON) text() string {
	var b strings.Builder
	for i, f := range all.Files {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s\n", alert.Escape(f.File))
		show := func(name, text string) {
			b.WriteString(wrapTo(columns, text, fmt.Sprintf("  %-10s", name), strings.Repeat(" ", 12)))
		}
		if f.Problem != "" {
			show("problem", alert.Escape(f.Problem))
			continue
		}
		format := formatNames[f.Format]
		if f.Format != clientside.None && !f.Sure {
			format += "; it may look like one by chance"
		}
		show("format", format)
		if f.Bytes > 0 {
			show("size", bytesText(f.Bytes))
		}
		if f.Place != "" {
			show("data key", placeText[f.Place])
		}
		for _, k := range f.Keys {
			label := k.Label
			switch {
			case label == "":
				label = "it does not say which key"
			case k.LabelInContext:
				label += " (by its context, which keeps the name of the first key)"
			}
			show("KMS key", alert.Escape(label))
			for i, attribute := range contextLines(k.Context) {
				name := ""
				if i == 0 {
					name = "context"
				}
				fmt.Fprintf(&b, "  %-9s %s\n", name, attribute) // with all its spaces
			}
			if k.ContextUnknown {
				show("context", "it does not say which")
			} else if len(k.Context) == 0 {
				show("context", "none")
			}
		}
		switch {
		case f.Moves:
			show("can move", "yes: "+f.How)
		default:
			show("can move", "no: "+alert.Escape(f.WhyNot))
		}
	}
	return b.String()
}

var placeText = map[clientside.Place]string{
	clientside.InMetadata: "in the object's metadata", clientside.InInstructionFile: "in the instruction file", clientside.InBody: "in the file",
}

// contextLines shows an encryption context, one attribute a line.
func contextLines(about map[string]string) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(about)) {
		lines = append(lines, alert.Escape(name)+"="+alert.Escape(about[name]))
	}
	return lines
}
