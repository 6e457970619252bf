package tenancy

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// DirectoryFile is a [Directory] in a file: a JSON object with the id of each
// tenant and the DSN of its database. A file that changed is read again, so
// replace it as a whole, by a rename. While it cannot be read, or is not such an
// object, lookups fail, and what is known already goes on being used.
func DirectoryFile(path string) Directory { return &fileDirectory{path: path} }

type fileDirectory struct {
	path string

	mu   sync.Mutex
	read fs.FileInfo // of the file that dsns came from
	dsns map[string]string
}

// Lookup looks the tenant up in the file.
func (d *fileDirectory) Lookup(_ context.Context, tenant string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refresh(); err != nil {
		return "", err
	}
	dsn, ok := d.dsns[tenant]
	if !ok {
		return "", unknownTenant(tenant)
	}
	return dsn, nil
}

// refresh reads the file if it is another one than last time. Its state is taken
// ahead of its content: a change in between is found at the next lookup.
func (d *fileDirectory) refresh() error {
	now, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("the directory's file: %w", err)
	}
	if d.read != nil && os.SameFile(d.read, now) && d.read.ModTime().Equal(now.ModTime()) && d.read.Size() == now.Size() {
		return nil
	}
	content, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("the directory's file: %w", err)
	}
	var dsns map[string]string
	if err := json.Unmarshal(content, &dsns); err != nil {
		return fmt.Errorf("the directory's file %s is no JSON object of tenants and DSNs: %w", d.path, err)
	}
	d.read, d.dsns = now, dsns
	return nil
}
