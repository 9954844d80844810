# The demo guest's first instructions (PVH: 32-bit, flat, no paging), its interrupt handlers, and the
# memory functions that compiled code may call. Handlers touch no vector register, so none is saved.

.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

.section .text.boot, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    mov esp, offset stack_top
    # Page tables: 1 GiB mapped one to one with 2 MiB pages.
    mov eax, offset page_directory_pointers
    or eax, 3
    mov dword ptr [pml4], eax
    mov eax, offset page_directory
    or eax, 3
    mov dword ptr [page_directory_pointers], eax
    mov eax, 0x83
    mov edi, offset page_directory
    mov ecx, 512
2:  mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b
    mov eax, offset pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620                   # PAE; OSFXSR and OSXMMEXCPT for SSE in compiled code
    mov cr4, eax
    mov ecx, 0xc0000080             # EFER.LME
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb             # EM off
    or eax, 0x80000003              # PG, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, offset stack_top
    call guest_main
4:  cli
    hlt
    jmp 4b

.section .text
# IRQ 0: the 8254.
.global timer_interrupt
timer_interrupt:
    push rax
    inc qword ptr [rip + TICKS]
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

# IRQ 4: the 16550. All that has arrived goes to the ring.
.global uart_interrupt
uart_interrupt:
    push rax
    push rcx
    push rdx
    push rdi
2:  mov edx, 0x3fd
    in al, dx
    test al, 1
    jz 3f
    mov edx, 0x3f8
    in al, dx
    mov rcx, qword ptr [rip + RECEIVED]
    movzx ecx, cl
    lea rdi, [rip + RECEIVE_RING]
    mov byte ptr [rdi + rcx], al
    inc qword ptr [rip + RECEIVED]
    jmp 2b
3:  mov al, 0x20
    out 0x20, al
    pop rdi
    pop rdx
    pop rcx
    pop rax
    iretq

.global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret

.global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret

# Named by unwind tables of the core library, which are left out of the image; never called.
.global rust_eh_personality
rust_eh_personality:
    ud2

.section .rodata
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt

.section .bss
    .balign 4096
pml4:
    .skip 4096
page_directory_pointers:
    .skip 4096
page_directory:
    .skip 4096
    .skip 16384
stack_top:
